"""The vectors and nearest passages of a dataset, cached in its directory for later runs."""

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
"""The inputs that vectors depend on: the embedder, its fingerprint, and digests of the texts."""


class Retriever(Protocol):
    """A vector search over the passages of a dataset."""

    def search(self, vectors: FloatArray, top_k: int) -> tuple[list[list[str]], FloatArray]:
        """Returns the nearest passages of `vectors`, (queries, dim).

        They are passage ids, best first and ties by id, and inner products (queries, top_k).
        """
        ...


class CachedIndex(Protocol):
    """The vector index over a dataset's passages, built once and reused by later runs."""

    kind: str

    def reuse(self, key: Key) -> bool:
        """Reuses an index that was built under `key`; returns whether there is one."""
        ...

    def build(self, ids: Sequence[str], vectors: FloatArray, key: Key) -> None:
        """Builds the index from vectors, (passages, dim)."""
        ...

    def open(self) -> Retriever:
        """Opens the index that was built or reused."""
        ...


class CachedVectors:
    """Computes the vectors, neighbours and scores of one embedder, or reads those of earlier runs.

    Parameters
    ----------
    layout : DatasetLayout
        The paths of the cached arrays.
    embedder : SentenceEmbedder
        Computes the vectors.
    key : mapping
        An array is recomputed if this, or anything else that it depends on, has changed.
    progress : Progress
        Shows the progress.
    """

    def __init__(
        self, layout: DatasetLayout, embedder: SentenceEmbedder, key: Key, progress: Progress
    ) -> None:
        self._layout = layout
        self._embedder = embedder
        self._key = key
        self._progress = progress

    def passage_vectors(self, count: int) -> FloatArray:
        """Returns the vectors of the `count` texts of `passages.parquet`, (passages, dim)."""

        def chunks() -> Iterator[list[str]]:
            for table in iter_tables(self._layout.passages, ["text"]):
                for start in range(0, table.num_rows, TEXTS_PER_CHUNK):
                    yield table["text"].slice(start, TEXTS_PER_CHUNK).to_pylist()

        with self._progress("embedding passages", "passages") as report:
            return fill_rows(
                self._layout.cached("passage_vectors"),
                (count, self._embedder.dim),
                np.float32,
                key=self._key,
                chunks=chunks(),
                compute=self._embedder.embed_passages,
                report=report,
            )

    def query_vectors(self, texts: Sequence[str], digest: str) -> FloatArray:
        """Returns the vectors of the queries, (queries, dim); `digest` identifies their texts."""
        with self._progress("embedding queries", "queries") as report:
            return fill_rows(
                self._layout.cached("query_vectors"),
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
        index: CachedIndex,
        rows: Mapping[str, int],
        top_k: int,
    ) -> npt.NDArray[np.void]:
        """Returns the nearest passages of each query as `NEIGHBOUR`, (queries, top_k), best first.

        `digest` identifies the queries, and `rows` maps passage ids to rows.
        """
        opened: list[Retriever] = []

        def nearest(vectors: FloatArray) -> npt.NDArray[np.void]:
            if not opened:  # only if there is a query left, since an index may be large
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
                self._layout.cached("neighbours"),
                (len(query_vectors), top_k),
                NEIGHBOUR,
                key={**self._key, "queries_digest": digest, "ann": index.kind},
                chunks=_slices(query_vectors, QUERIES_PER_SEARCH),
                compute=nearest,
                report=report,
            )

    def pair_scores(self, query_vectors: FloatArray, pairs: Pairs, digest: str) -> FloatArray:
        """Returns the inner products of judged pairs, (pairs,).

        `digest` identifies the queries and the judgements.
        """
        path = self._layout.cached("passage_vectors")
        stored = np.load(path, mmap_mode="r") if path.exists() else None
        texts = {} if stored is not None else self._texts(set(pairs.passages.tolist()))

        def score(indexes: npt.NDArray[np.int64]) -> FloatArray:
            passages = pairs.passages[indexes]
            vectors = (
                stored[passages]
                if stored is not None
                else self._embedder.embed_passages([texts[row] for row in passages.tolist()])
            )
            products: FloatArray = (query_vectors[pairs.queries[indexes]] * vectors).sum(1)
            return products

        with self._progress("scoring judged pairs", "pairs") as report:
            return fill_rows(
                self._layout.cached("positive_scores"),
                (len(pairs.queries),),
                np.float32,
                key={**self._key, "judgements_digest": digest},
                chunks=_slices(np.arange(len(pairs.queries)), TEXTS_PER_CHUNK),
                compute=score,
                report=report,
            )

    def _texts(self, wanted: set[int]) -> dict[int, str]:
        """Returns the texts of the passages in the rows `wanted`, by row."""
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
