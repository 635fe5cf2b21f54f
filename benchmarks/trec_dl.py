"""Reranks a first-stage run with an index's model and prints ir-measures' figures side by side.

    python benchmarks/trec_dl.py --index-dir msmarco.index \
        --queries dl19/queries.tsv --qrels dl19/qrels.txt --run dl19/run.bm25.trec

Rows: the run itself, the cosine of the pooled vectors on the run's passages, the head alone, an
interpolation of both (each query's scores standardised, equal weights), and the index's own vector
search over all passages, before and after its reranking. An ONNX cross-encoder may be added.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from dipair_index.encoders.cross_encoders import open_teacher
from dipair_index.evaluation.bootstrap import Bootstrap, JudgedRuns, evaluate
from dipair_index.formats.collections import read_queries
from dipair_index.formats.trec import read_qrels, read_run
from dipair_index.records import Query, Run
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.ranking import RankedPassage

MEASURES = ["nDCG@10", "RR(rel=2)@10", "R(rel=2)@100"]


def scores_of(rankings: dict[str, list[RankedPassage]]) -> Run:
    return {
        query_id: {passage.id: passage.score for passage in ranking}
        for query_id, ranking in rankings.items()
    }


def standardised(scores: dict[str, float]) -> dict[str, float]:
    values = np.array(list(scores.values()))
    spread = values.std() or 1.0
    return dict(zip(scores, ((values - values.mean()) / spread).tolist(), strict=True))


def interpolated(first: Run, second: Run) -> Run:
    fused: Run = {}
    for query_id in first:
        one, other = standardised(first[query_id]), standardised(second[query_id])
        fused[query_id] = {passage_id: one[passage_id] + other[passage_id] for passage_id in one}
    return fused


def cosines(index: DiPairIndex, queries: list[Query], run: Run) -> Run:
    """Scores the run's passages by the vectors of the index's own FAISS index."""
    nearest = index.search([query.text for query in queries], len(index), rerank=False)
    scored: Run = {}
    for query, ranking in zip(queries, nearest, strict=True):
        found = {passage.id: passage.score for passage in ranking}
        scored[query.query_id] = {
            passage_id: found[passage_id] for passage_id in run[query.query_id]
        }
    return scored


def teacher_run(name: str, index: DiPairIndex, queries: list[Query], run: Run) -> Run:
    teacher, scored = open_teacher(name), {}
    for query in queries:
        passages = index.rerank(query.text, list(run[query.query_id]), len(run[query.query_id]))
        logits = teacher.logits([query.text] * len(passages), [p.text for p in passages])
        scored[query.query_id] = {
            p.id: float(logit) for p, logit in zip(passages, logits, strict=True)
        }
    return scored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index-dir", type=Path, required=True)
    for name in ("queries", "qrels", "run"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--teacher", help="an ONNX file or a transformers cross-encoder")
    arguments = parser.parse_args()
    run = read_run(arguments.run)
    queries = [query for query in read_queries(arguments.queries) if query.query_id in run]
    texts = [query.text for query in queries]
    names = [query.query_id for query in queries]
    with DiPairIndex.open(arguments.index_dir) as index:
        depth = max(len(scores) for scores in run.values())
        head = scores_of(index.rerank_run(queries, run, depth, raw_scores=True))
        cosine = cosines(index, queries, run)
        nearest = index.search(texts, 100, rerank=False)
        reranked = index.search(texts, 100, 100)
        systems = {
            f"first stage: {Path(arguments.run).name}": run,
            "  reranked by the pooled vectors' cosine": cosine,
            "  reranked by the head alone": head,
            "  head and first stage, interpolated": interpolated(head, run),
            "vector search, all passages": scores_of(dict(zip(names, nearest, strict=True))),
            "  its top 100 reranked by the head": scores_of(
                dict(zip(names, reranked, strict=True))
            ),
        }
        if arguments.teacher:
            systems["  reranked by the teacher"] = teacher_run(
                arguments.teacher, index, queries, run
            )
    judged = JudgedRuns(read_qrels(arguments.qrels), systems)
    figures: dict[str, list[str]] = {name: [] for name in systems}
    for measured in evaluate(judged, MEASURES, Bootstrap(next(iter(systems)), resamples=0)):
        figures[measured.system].append(f"{measured.value:.4f}")
    for name, values in {"system": MEASURES, **figures}.items():
        print("\t".join([name, *values]))


if __name__ == "__main__":
    main()
