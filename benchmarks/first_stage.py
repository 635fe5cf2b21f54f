"""Measures the first stages of an index beside each other: vectors, words, and fusions of both.

    dipair-index build --corpus collection.tsv --lexical --index-dir msmarco.index
    python benchmarks/first_stage.py --index-dir msmarco.index \
        --queries queries.dev.tsv --qrels qrels.dev.tsv

Each is the order of its own, without the head; the weights are the share of BM25. Choose the weight
of `both` (LEXICAL_WEIGHT in rerank/names.py) by dev queries, and measure test queries afterwards.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dipair_index.evaluation.bootstrap import Bootstrap, JudgedRuns, evaluate
from dipair_index.formats.collections import read_queries
from dipair_index.formats.trec import read_qrels
from dipair_index.records import Run
from dipair_index.rerank.fusion import Fusion
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.names import FIRST_STAGES

DEPTH = 100
QUERIES_AT_ONCE = 64
WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5)


def fused(first: Run, second: Run, fusion: Fusion) -> Run:
    both = {each: fusion.scores(first[each], second[each]) for each in first}
    return {
        query_id: dict(sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:DEPTH])
        for query_id, scores in both.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index-dir", type=Path, required=True)
    parser.add_argument("--queries", required=True)
    parser.add_argument("--qrels", required=True)
    parser.add_argument("--measures", nargs="+", default=["nDCG@10", "RR@10", "R@100"])
    arguments = parser.parse_args()
    qrels = read_qrels(arguments.qrels)
    queries = [query for query in read_queries(arguments.queries) if query.query_id in qrels]
    runs: dict[str, Run] = {stage: {} for stage in FIRST_STAGES[:2]}
    with DiPairIndex.open(arguments.index_dir) as index:
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            batch = queries[start : start + QUERIES_AT_ONCE]
            texts = [query.text for query in batch]
            for stage in FIRST_STAGES[:2]:
                found = index.search(texts, DEPTH, rerank=False, raw_scores=True, first_stage=stage)
                for query, ranking in zip(batch, found, strict=True):
                    runs[stage][query.query_id] = {each.id: each.score for each in ranking}
    fusions = {"rrf": Fusion("rrf")}
    fusions |= {f"weighted, {weight}": Fusion("weighted", weight) for weight in WEIGHTS}
    for name, fusion in fusions.items():
        runs[name] = fused(runs["vectors"], runs["lexical"], fusion)
    figures: dict[str, list[str]] = {name: [] for name in runs}
    judged = JudgedRuns(qrels, runs)
    for measured in evaluate(judged, arguments.measures, Bootstrap("vectors", resamples=1000)):
        p = "" if measured.p is None else f" (p {measured.p:.3f})"
        figures[measured.system].append(f"{measured.value:.4f}{p}")
    for name, values in {"first stage": arguments.measures, **figures}.items():
        print("\t".join([name, *values]))


if __name__ == "__main__":
    main()
