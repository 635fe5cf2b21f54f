"""Measures each codec: bytes, time, errors, and the quality of reranking.

    python benchmarks/codecs.py --data msmarco --dataset msmarco.dataset --cache codecs.cache

`--data` is a folder with `collection.tsv` and `dl19/`, `--dataset` one that `dipair-index
make-dataset` wrote from it. The passages of both are encoded once, into `--cache`, where an
interrupted run goes on. Then each codec encodes and decodes their tokens, and the head reranks
BM25's top 100 of TREC DL 2019 and scores the judged pairs. Queries stay in float32, as in an index.

Times are medians over 1,000 passages, the codecs by turns. Differences are to float32, with the
95 % interval and the p-value of the paired bootstrap over queries.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dipair_index.cli._console import progress
from dipair_index.data.dataset import Dataset
from dipair_index.digests import TextsDigest
from dipair_index.encoders.base import EncodedTexts
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.evaluation.bootstrap import Bootstrap, JudgedRuns, evaluate
from dipair_index.formats.collections import read_passages, read_queries
from dipair_index.formats.row_files import fill_rows
from dipair_index.formats.trec import read_qrels, read_run
from dipair_index.records import FloatArray, Qrels, Run
from dipair_index.rerank.head import HeadScorer
from dipair_index.stores.codecs import open_codec
from dipair_index.stores.names import CODEC_NAMES

SPLITS = ("valid", "test")
TEXTS_PER_CHUNK = 512
PASSAGES_TIMED = 1000
TURNS = 25


class Task(NamedTuple):
    """The passages to score for each query, and the judgements of them."""

    name: str
    passages: Mapping[str, Iterable[str]]
    qrels: Qrels
    measures: list[str]


class Tokens(NamedTuple):
    """The tokens of texts, (texts, tokens, dim), and in which row each text's are."""

    rows: Mapping[str, int]
    array: FloatArray

    def of(self, ids: Iterable[str]) -> FloatArray:
        return self.array[[self.rows[name] for name in ids]]


def encoded(
    encode: Callable[[Sequence[str]], EncodedTexts],
    shape: tuple[int, int],
    texts: Mapping[str, str],
    fingerprint: str,
    path: Path,
) -> Tokens:
    ids = sorted(texts)
    ordered = [texts[name] for name in ids]
    digest = TextsDigest()
    digest.update(ids, ordered)
    with progress(f"encoding {path.stem}", "texts") as report:
        tokens = fill_rows(
            path,
            (len(ids), *shape),
            np.float32,
            key={"model": fingerprint, "texts": digest.hexdigest()},
            chunks=(
                ordered[start : start + TEXTS_PER_CHUNK]
                for start in range(0, len(ids), TEXTS_PER_CHUNK)
            ),
            compute=lambda chunk: encode(chunk).tokens,
            report=report,
        )
    return Tokens({name: row for row, name in enumerate(ids)}, np.array(tokens))


def scored(scorer: HeadScorer, task: Task, queries: Tokens, passages: Tokens) -> Run:
    run: Run = {}
    for query_id, ids in task.passages.items():
        logits = scorer.logits(queries.of([query_id])[0], passages.of(ids))
        run[query_id] = dict(zip(ids, logits.tolist(), strict=True))
    return run


def median_seconds(steps: Sequence[Callable[[], object]]) -> list[float]:
    taken = np.empty((TURNS, len(steps)))
    for turn in taken:
        for place, step in enumerate(steps):
            start = time.perf_counter()
            step()
            turn[place] = time.perf_counter() - start
    seconds: list[float] = np.median(taken, axis=0).tolist()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("codecs.cache"))
    parser.add_argument("--model", default="default")
    arguments = parser.parse_args()

    judged = arguments.data / "dl19"
    run = read_run(judged / "run.bm25.trec")
    tasks = [Task("DL19", run, read_qrels(judged / "qrels.txt"), ["nDCG@10", "RR(rel=2)@10"])]
    query_texts = dict(read_queries(judged / "queries.tsv"))
    wanted = {passage_id for ranking in run.values() for passage_id in ranking}
    passage_texts = {
        passage.passage_id: passage.full_text
        for passage in read_passages(arguments.data / "collection.tsv")
        if passage.passage_id in wanted
    }
    dataset = Dataset.open(arguments.dataset)
    for split in SPLITS:
        judged = dataset.judged(split)
        pairs, texts = judged.as_pairs(), judged.texts
        qrels = pairs.as_runs().qrels
        tasks.append(Task(split, qrels, qrels, ["AUC"]))
        query_texts.update(zip(pairs.query_ids, texts["query"], strict=True))
        passage_texts.update(zip(pairs.passage_ids, texts["passage"], strict=True))

    encoder = DualEncoder.load(arguments.model)
    config, name = encoder.model.config, encoder.fingerprint
    arguments.cache.mkdir(parents=True, exist_ok=True)
    shape = (config.max_query_tokens, config.dim)
    path = arguments.cache / "queries.npy"
    queries = encoded(encoder.encode_queries, shape, query_texts, name, path)
    shape = (config.max_passage_tokens, config.dim)
    path = arguments.cache / "passages.npy"
    passages = encoded(encoder.encode_passages, shape, passage_texts, name, path)

    scorer = HeadScorer(encoder.model)
    runs: dict[str, dict[str, Run]] = {task.name: {} for task in tasks}
    codecs = [open_codec(codec, tokens_per_passage=shape[0], dim=shape[1]) for codec in CODEC_NAMES]
    batch = passages.array[:PASSAGES_TIMED]
    encoding = median_seconds([partial(codec.encode, batch) for codec in codecs])
    decoding = median_seconds([partial(codec.decode, codec.encode(batch)) for codec in codecs])
    print(
        f"{len(passages.array):,} passages, {shape[0]} tokens of {shape[1]} numbers, "
        f"mean magnitude {np.abs(passages.array).mean():.3f}\n\n"
        "| codec | bytes a passage | encode, passages/s | decode, passages/s | largest error "
        "| mean error |\n|---|" + "--:|" * 5
    )
    for codec, encode, decode in zip(codecs, encoding, decoding, strict=True):
        kept = passages._replace(array=codec.decode(codec.encode(passages.array)))
        errors = np.abs(kept.array - passages.array)
        print(
            f"| {codec.name} | {codec.bytes_per_passage:,} | {len(batch) / encode:,.0f} "
            f"| {len(batch) / decode:,.0f} | {errors.max():.2g} | {errors.mean():.2g} |"
        )
        for task in tasks:
            runs[task.name][codec.name] = scored(scorer, task, queries, kept)
    print(
        "\n| measure | codec | value | difference | 95 % interval | p |\n|---|---|--:|--:|--:|--:|"
    )
    for task in tasks:
        compared = JudgedRuns(task.qrels, runs[task.name])
        for each in evaluate(compared, task.measures, Bootstrap("float32")):
            against = "| | |"
            if each.difference is not None:
                interval = f"{each.low:+.4f} to {each.high:+.4f}"
                against = f"{each.difference:+.4f} | {interval} | {each.p:.2f} |"
            print(f"| {task.name} {each.measure} | {each.system} | {each.value:.4f} | {against}")


if __name__ == "__main__":
    main()
