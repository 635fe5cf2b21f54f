"""How near a head comes to its teacher: the order of each query's nearest passages, by both.

    python benchmarks/fidelity.py --index-dir msmarco.index --queries msmarco/queries.dev.tsv \
        --teacher ms-marco-MiniLM-L-12-v2 --run bge.dev.run --cache fidelity.cache

Each query's candidates are its nearest passages by the index's own vectors, or those of `--run`, a
fixed set by which several models are compared. The teacher labels every pair once, into `--cache`,
where an interrupted run goes on. Then the same pairs are scored by the cosine of the vectors, by
MaxSim over the stored tokens, and by the head. Means over queries of

- Spearman's rank correlation with the teacher's logits, over all candidates of a query;
- nDCG@10 with the teacher's order as gains: 10 for its first passage, 9 for its second, ... 1.

Differences are to the cosine, with the 95 % interval and the p-value of the paired bootstrap over
queries. Fidelity has far less noise than judged measures: it is what to develop by.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from dipair_index.cli._console import progress
from dipair_index.digests import TextsDigest
from dipair_index.encoders.cross_encoders import Teacher, open_teacher
from dipair_index.encoders.open import open_encoder
from dipair_index.formats.collections import read_queries
from dipair_index.formats.row_files import fill_rows
from dipair_index.formats.trec import read_run
from dipair_index.models.sources import model_folder
from dipair_index.records import FloatArray, Query, Run
from dipair_index.rerank.index import DiPairIndex
from dipair_index.stores.snapshot import Snapshot

Floats = npt.NDArray[np.float64]

DEPTH = 10
RESAMPLES = 10_000
QUERIES_AT_ONCE = 16


def spearman(scores: Floats, teacher: Floats) -> float:
    """The correlation of two rankings; 0 if one of them ranks nothing."""
    value = spearmanr(scores, teacher).statistic
    return 0.0 if np.isnan(value) else float(value)


def ndcg(scores: Floats, teacher: Floats) -> float:
    """nDCG@10 with gains of 10, 9, ... 1 for the teacher's first ten passages, 0 for the others."""
    gains = np.zeros(len(teacher))
    best = np.argsort(-teacher, kind="stable")[:DEPTH]
    gains[best] = np.arange(DEPTH, DEPTH - len(best), -1)
    discounts = 1 / np.log2(np.arange(2, len(best) + 2))
    reached = gains[np.argsort(-scores, kind="stable")[: len(best)]] @ discounts
    return float(reached / (gains[best] @ discounts))


MEASURES: dict[str, Callable[[Floats, Floats], float]] = {
    "Spearman": spearman,
    "nDCG@10": ndcg,
}


def teacher_logits(
    teacher: Teacher, queries: list[Query], run: Run, texts: Mapping[str, str], path: Path
) -> FloatArray:
    """The teacher's logits of all pairs of the run, in its order, (pairs,), kept in `path`."""
    pairs = [(query.text, passage_id) for query in queries for passage_id in run[query.query_id]]
    digest = TextsDigest()
    digest.update([query for query, _ in pairs], [texts[passage_id] for _, passage_id in pairs])
    step = QUERIES_AT_ONCE * len(run[queries[0].query_id])

    def logits(chunk: list[tuple[str, str]]) -> FloatArray:
        return teacher.logits([query for query, _ in chunk], [texts[name] for _, name in chunk])

    with progress("labelling", "pairs") as report:
        return np.asarray(
            fill_rows(
                path,
                (len(pairs),),
                np.float32,
                key={"teacher": teacher.fingerprint, "pairs": digest.hexdigest()},
                chunks=(pairs[start : start + step] for start in range(0, len(pairs), step)),
                compute=logits,
                report=report,
            )
        )


def largest_products(query: FloatArray, passages: FloatArray) -> Floats:
    """MaxSim of tokens, (N, dim) and (passages, M, dim); zero tokens are absent ones."""
    products = np.einsum("nd,pmd->pnm", query, passages, dtype=np.float64)
    products[~np.broadcast_to(passages.any(-1)[:, None], products.shape)] = -1
    largest: Floats = products.max(-1)[:, query.any(-1)].mean(-1)
    return largest


def unit_rows(rows: FloatArray) -> FloatArray:
    """The rows at unit length; those of zeros stay so."""
    scaled: FloatArray = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    return scaled


def similarities(index_dir: Path, queries: list[Query], run: Run) -> tuple[Run, Run]:
    """Scores the run's passages by the cosine of their vectors, and by MaxSim of their tokens."""
    cosine: Run = {}
    maxsim: Run = {}
    with Snapshot.open(index_dir) as snapshot:
        encoder = open_encoder(snapshot.manifest.model)
        # clusters are compared as they are, other tokens by their cosine
        config = json.loads((model_folder(encoder.name) / "config.json").read_text("utf-8"))
        scaled = (lambda rows: rows) if config["keep"] == "clusters" else unit_rows
        row_of = {each: row for row, each in enumerate(snapshot.ids_between(0, len(snapshot)))}
        vectors = snapshot.vectors_between(0, len(snapshot))
        encoded = encoder.encode_queries([query.text for query in queries])
        for query, tokens, vector in zip(queries, *encoded, strict=True):
            ids = list(run[query.query_id])
            products = vectors[[row_of[each] for each in ids]] @ vector
            cosine[query.query_id] = dict(zip(ids, products.tolist(), strict=True))
            largest = largest_products(scaled(tokens), scaled(snapshot.tokens(ids)))
            maxsim[query.query_id] = dict(zip(ids, largest.tolist(), strict=True))
    return cosine, maxsim


def compared(values: Floats, baseline: Floats) -> str:
    """The mean difference of two systems over queries, its 95 % interval and its p-value."""
    differences = values - baseline
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    means = differences[drawn].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    far = np.abs(means - differences.mean()) >= abs(differences.mean())
    p = (1 + far.sum()) / (1 + RESAMPLES)
    return f"{differences.mean():+.4f} | {low:+.4f} to {high:+.4f} | {p:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index-dir", type=Path, required=True)
    parser.add_argument("--queries", required=True)
    parser.add_argument("--teacher", required=True, help="an ONNX file's folder, or a hub name")
    parser.add_argument("--run", help="TREC run with the candidates; otherwise the index's own")
    parser.add_argument("--nearest", type=int, default=50, help="candidates a query")
    parser.add_argument("--limit", type=int, help="read so many queries")
    parser.add_argument("--cache", type=Path, default=Path("fidelity.cache"))
    arguments = parser.parse_args()
    queries = list(islice(read_queries(arguments.queries), arguments.limit))
    with DiPairIndex.open(arguments.index_dir) as index:
        if arguments.run:
            given = read_run(arguments.run)
            run = {
                query.query_id: dict(islice(given[query.query_id].items(), arguments.nearest))
                for query in queries
            }
        else:
            nearest = index.search(
                [query.text for query in queries], arguments.nearest, rerank=False
            )
            run = {
                query.query_id: {passage.id: passage.score for passage in ranking}
                for query, ranking in zip(queries, nearest, strict=True)
            }
        reranked = index.rerank_run(queries, run, arguments.nearest, raw_scores=True)
    head = {name: {each.id: each.score for each in ranking} for name, ranking in reranked.items()}
    texts = {each.id: f"{each.title} {each.text}".strip()
             for ranking in reranked.values() for each in ranking}  # fmt: skip
    arguments.cache.mkdir(parents=True, exist_ok=True)
    teacher = open_teacher(arguments.teacher)
    logits = teacher_logits(teacher, queries, run, texts, arguments.cache / "teacher.npy")
    stops = np.cumsum([len(run[query.query_id]) for query in queries])
    labels = np.split(logits.astype(np.float64), stops[:-1])
    candidates = [list(run[query.query_id]) for query in queries]
    cosine, maxsim = similarities(arguments.index_dir, queries, run)
    systems = {"cosine": cosine, "MaxSim": maxsim, "head": head}
    print(f"{len(queries):,} queries, {len(logits):,} pairs\n")
    print(
        "| measure | system | mean | to the cosine | 95 % interval | p |\n|---|---|--:|--:|--:|--:|"
    )
    for measure, compute in MEASURES.items():
        values = {
            name: np.array(
                [
                    compute(np.array([scores[query.query_id][each] for each in ids]), label)
                    for query, ids, label in zip(queries, candidates, labels, strict=True)
                ]
            )
            for name, scores in systems.items()
        }
        for name, each in values.items():
            against = "| |" if name == "cosine" else compared(each, values["cosine"])
            print(f"| {measure} | {name} | {each.mean():.4f} | {against} |")


if __name__ == "__main__":
    main()
