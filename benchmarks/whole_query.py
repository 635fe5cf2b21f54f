"""A whole query over 100,000 passages: each part's p50 and p95, and the share of matrix products.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/whole_query.py --data msmarco --folder indexes

The index is made once in `--folder`, in seconds: real texts, repeated until there are enough, but
random tokens and random vectors in the sizes of the model, since no time depends on their values
(but in a graph: HNSW takes many minutes to link random vectors, and more steps than real ones do).
The queries are real, and the model encodes them. `--ann` names FAISS indexes, one row each.

The share of products is that of one thread: what torch's profiler counts in products and attention
(GELU and the residual are in them where they are fused), and FAISS's search, over the whole. The
share outside of computing is all but the encoder's pass, FAISS's search and the head.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile

from dipair_index.encoders.base import EncodedTexts
from dipair_index.encoders.batches import Tokenised
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.formats.collections import read_passages, read_queries
from dipair_index.records import Passage
from dipair_index.rerank.bench import STEPS, measure_searches, peak_memory
from dipair_index.rerank.build import build_index
from dipair_index.rerank.index import DiPairIndex
from dipair_index.threads import limit_openmp

PRODUCTS = (
    "linear_pointwise",
    "addmm",
    "aten::mm",
    "aten::bmm",
    "aten::baddbmm",
    "flash_attention",
)
PROFILED = 20


class StandIn(DualEncoder):
    """An encoder in another's name, with random token embeddings and vectors of passages."""

    def __init__(self, encoder: DualEncoder) -> None:
        self.__dict__.update(encoder.__dict__)
        self._chance = np.random.default_rng(0)

    def encode_tokenised(self, texts: Tokenised) -> EncodedTexts:
        count, (_, kept, dim, vector_dim) = len(texts.ids), self.sizes
        vectors = self._chance.standard_normal((count, vector_dim), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return EncodedTexts(self._chance.standard_normal((count, kept, dim), np.float32), vectors)


def passages(collection: Path, count: int) -> Iterator[Passage]:
    real = cycle(list(read_passages(collection)))
    for number, passage in enumerate(islice(real, count)):
        yield passage._replace(id=f"{passage.passage_id}-{number}")


def made(arguments: argparse.Namespace, encoder: DualEncoder, ann: str) -> Path:
    name = f"{arguments.passages}-{ann.replace(',', '-')}-{encoder.fingerprint}.index"
    folder: Path = arguments.folder / name
    if not folder.exists():
        collection = arguments.data / "collection.tsv"
        texts = passages(collection, arguments.passages)
        build_index(texts, folder, StandIn(encoder), ann=ann)
    return folder


def product_share(index: DiPairIndex, queries: Sequence[str], candidates: int) -> float:
    """The share of retrieval and matrix products in the time of searches in one thread."""
    seconds = 0.0
    settings = _ExperimentalConfig(profile_all_threads=True)
    with profile(activities=[ProfilerActivity.CPU], experimental_config=settings) as profiled:
        started = time.perf_counter()
        for query in queries:
            seconds += index.search(query, 10, candidates).timings.retrieve
        whole = time.perf_counter() - started
    seconds += 1e-6 * sum(
        event.self_cpu_time_total
        for event in profiled.key_averages()
        if any(name in event.key for name in PRODUCTS)
    )
    return seconds / whole


def outside(index: DiPairIndex, queries: Sequence[str], candidates: int) -> float:
    """The share of a search's time in which nothing is computed."""
    rows = []
    for query in queries:
        started = time.perf_counter()
        spent = index.search(query, 10, candidates).timings
        whole = time.perf_counter() - started
        computed = spent.encode + spent.retrieve + spent.score
        rows.append(1 - computed / whole)
    return float(np.median(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="with collection.tsv and queries")
    parser.add_argument("--folder", type=Path, required=True, help="keep the indexes here")
    parser.add_argument("--model", default="default")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--ann", nargs="+", default=["flat", "ivf"])
    parser.add_argument("--candidates", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    arguments = parser.parse_args()
    encoder = DualEncoder.load(arguments.model)
    asked = islice(read_queries(arguments.data / "queries.dev.tsv"), arguments.queries)
    queries = [query.text for query in asked]
    columns = ["ANN", "threads", "candidates", *(f"{part}, ms" for part in STEPS), "pairs/s"]
    print("\t".join([*columns, "in products", "outside of computing", "peak MiB", "load"]))
    for ann in arguments.ann:
        with DiPairIndex.open(made(arguments, encoder, ann), encoder) as index:
            for candidates in arguments.candidates:
                limit_openmp(1)
                products = product_share(index, queries[:PROFILED], candidates)
                for threads in arguments.threads:
                    limit_openmp(threads)
                    found = measure_searches(index, queries, candidates)
                    row = [ann, f"{threads}", f"{candidates:,}"]
                    row += [f"{s.p50:.1f} / {s.p95:.1f}" for s in found.milliseconds.values()]
                    row += [f"{found.pairs_per_second:,.0f}", f"{products:.0%}"]
                    row += [f"{outside(index, queries[:PROFILED], candidates):.1%}"]
                    row += [f"{(peak_memory() or 0) / 2**20:,.0f}", f"{os.getloadavg()[0]:.1f}"]
                    print("\t".join(row), flush=True)


if __name__ == "__main__":
    main()
