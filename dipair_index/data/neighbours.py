"""Vectors and nearest passages of a dataset: slow to compute, so kept for the next run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from dipair_index.data.layout import DatasetLayout
from dipair_index.data.mining import NEIGHBOUR, Pairs
from dipair_index.encoders.sentence_embedders import SentenceEmbedder
from dipair_index.formats.row_files import fill_rows
from dipair_index.formats.tables import iter_tables
from dipair_index.progress import Progress
from dipair_index.records import FloatArray

TEXTS_PER_CHUNK = 4096
QUERIES_PER_SEARCH = 1024

Key = Mapping[str, str]
"""What vectors are made of: embedder, its fingerprint, digests of the texts."""


class Retriever(Protocol):
    """Finds the nearest passages of vectors."""

    def search(self, vectors: FloatArray, top_k: int) -> tuple[list[list[str]], FloatArray]:
        """Returns passage ids best first (ties by id), and inner products, (queries, top_k)."""
        ...


class KeptIndex(Protocol):
    """Where the index over a dataset's passages comes from and where it stays."""

    kind: str

    def take_over(self, key: Key) -> bool:
        """Puts an index made of `key` into place, if there is one."""
        ...

    def build(self, ids: Sequence[str], vectors: FloatArray, key: Key) -> None:
        """Makes the index from vectors, (passages, dim)."""
        ...

    def open(self) -> Retriever:
        """Opens what was put into place."""
        ...


class KeptVectors:
    """Computes what a dataset needs of one embedder, or takes it over from its directory."""

    def __init__(
        self, layout: DatasetLayout, embedder: SentenceEmbedder, key: Key, progress: Progress
    ) -> None:
        self._layout = layout
        self._embedder = embedder
        self._key = key
        self._progress = progress

    def of_passages(self, count: int) -> FloatArray:
        """Vectors of `passages.parquet`, (passages, dim)."""

        def chunks() -> Iterator[list[str]]:
            for table in iter_tables(self._layout.passages, ["text"]):
                for start in range(0, table.num_rows, TEXTS_PER_CHUNK):
                    yield table["text"].slice(start, TEXTS_PER_CHUNK).to_pylist()

        with self._progress("embedding passages", "passages") as report:
            return fill_rows(
                self._layout.kept("passage_vectors"),
                (count, self._embedder.dim),
                np.float32,
                key=self._key,
                chunks=chunks(),
                compute=self._embedder.embed_passages,
                report=report,
            )

    def of_queries(self, texts: Sequence[str], digest: str) -> FloatArray:
        """Vectors of the queries, (queries, dim)."""
        with self._progress("embedding queries", "queries") as report:
            return fill_rows(
                self._layout.kept("query_vectors"),
                (len(texts), self._embedder.dim),
                np.float32,
                key={**self._key, "queries_digest": digest},
                chunks=_slices(texts, TEXTS_PER_CHUNK),
                compute=self._embedder.embed_queries,
                report=report,
            )

    def neighbours(
        self,
        query_vectors: FloatArray,
        digest: str,
        index: KeptIndex,
        rows: Mapping[str, int],
        top_k: int,
    ) -> npt.NDArray[np.void]:
        """The nearest passages of each query as `NEIGHBOUR`, (queries, top_k), best first."""
        opened: list[Retriever] = []

        def nearest(vectors: FloatArray) -> npt.NDArray[np.void]:
            if not opened:  # an index may be large, and nothing to search for
                opened.append(index.open())
            found, scores = opened[0].search(vectors, top_k)
            block = np.zeros((len(vectors), top_k), NEIGHBOUR)
            block["passage"] = -1  # an approximate index may find fewer
            for row, ids in enumerate(found):
                block["passage"][row, : len(ids)] = [rows[passage_id] for passage_id in ids]
                block["score"][row, : len(ids)] = scores[row, : len(ids)]
            return block

        with self._progress("searching", "queries") as report:
            return fill_rows(
                self._layout.kept("neighbours"),
                (len(query_vectors), top_k),
                NEIGHBOUR,
                key={**self._key, "queries_digest": digest, "ann": index.kind},
                chunks=_slices(query_vectors, QUERIES_PER_SEARCH),
                compute=nearest,
                report=report,
            )

    def scores(self, query_vectors: FloatArray, pairs: Pairs, digest: str) -> FloatArray:
        """Inner products of judged pairs, (pairs,); `digest` names queries and judgements."""
        path = self._layout.kept("passage_vectors")
        at_hand = np.load(path, mmap_mode="r") if path.exists() else None
        texts = {} if at_hand is not None else self._texts(set(pairs.passages.tolist()))

        def score(places: npt.NDArray[np.int64]) -> FloatArray:
            passages = pairs.passages[places]
            vectors = (
                at_hand[passages]
                if at_hand is not None
                else self._embedder.embed_passages([texts[row] for row in passages.tolist()])
            )
            products: FloatArray = (query_vectors[pairs.queries[places]] * vectors).sum(1)
            return products

        with self._progress("scoring judged pairs", "pairs") as report:
            return fill_rows(
                self._layout.kept("positive_scores"),
                (len(pairs.queries),),
                np.float32,
                key={**self._key, "judgements_digest": digest},
                chunks=_slices(np.arange(len(pairs.queries)), TEXTS_PER_CHUNK),
                compute=score,
                report=report,
            )

    def _texts(self, wanted: set[int]) -> dict[int, str]:
        """Texts of passages by row."""
        found: dict[int, str] = {}
        start = 0
        for table in iter_tables(self._layout.passages, ["text"]):
            inside = [row for row in range(start, start + table.num_rows) if row in wanted]
            texts = table["text"].take([row - start for row in inside]).to_pylist()
            found.update(zip(inside, texts, strict=True))
            start += table.num_rows
        return found


SliceT = TypeVar("SliceT", Sequence[str], npt.NDArray[Any])


def _slices(values: SliceT, size: int) -> Iterator[SliceT]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
