"""Searches a FAISS index for candidates, and computes their inner products reproducibly.

How FAISS rounds a product depends on the version, on the processor, and on the places of query
and vector in their batches. So FAISS only proposes candidates, and more of them than are asked
for; their order is that of `inner_products`, which rounds equal vectors equally.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from dipair_index.records import FloatArray

HNSW_EFFORT = 200
"""Candidates that HNSW looks at while the graph is built, and at least while it is searched."""
_HALF_ULP = 2.0**-24
"""The largest relative error of one float32 operation."""

Result = TypeVar("Result")


class Candidates(NamedTuple):
    """What FAISS found for one query, best first: rows of the index and FAISS's scores, (found,).

    `exhausted` says that the index would not find more if more were asked for. `vectors`,
    (found, dim), are None where the caller keeps them.
    """

    rows: npt.NDArray[np.int64]
    scores: FloatArray
    exhausted: bool
    vectors: FloatArray | None = None

    @classmethod
    def from_row(cls, scores: FloatArray, rows: Any, vectors: FloatArray | None) -> Candidates:
        """From one row of FAISS's results, where -1 marks what was not found."""
        found = rows >= 0
        if found.all():
            return cls(rows, scores, False, vectors)
        vectors = None if vectors is None else vectors[found]
        return cls(rows[found], scores[found], True, vectors)


def inner_products(vectors: FloatArray, query: FloatArray) -> FloatArray:
    """Inner products (vectors,) of vectors (vectors, dim) and a query (dim,), in float32.

    Equal vectors have equal products: each is summed up alone, in float64 and in one order. A
    matrix product of BLAS gives no such guarantee.
    """
    products: FloatArray = np.einsum(
        "nd,d->n", vectors.astype(np.float64), query.astype(np.float64)
    ).astype(np.float32)
    return products


def rounding_margin(vectors: FloatArray, query: FloatArray) -> float:
    """How far two products that FAISS computed of equal vectors may lie apart at most."""
    largest = float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors).max(initial=0)))
    length = float(np.sqrt(np.einsum("d,d->", query, query)))
    return 2 * len(query) * _HALF_ULP * largest * length


def is_flat(index: Any) -> bool:
    """Whether the index compares a query with every vector as it was given."""
    return isinstance(index, import_module("faiss").IndexFlat)


def flat_vectors(index: Any) -> FloatArray | None:
    """The vectors (count, dim) of a flat index, or of HNSW over one, where they lie in FAISS.

    They are valid as long as `index`. None for other indexes.
    """
    faiss: Any = import_module("faiss")
    if isinstance(index, faiss.IndexHNSW):
        index = faiss.downcast_index(index.storage)
    if not is_flat(index):
        return None
    stored: FloatArray = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
    return stored.reshape(index.ntotal, index.d)


def search_one(index: Any, query: FloatArray, count: int, *, with_vectors: bool) -> Candidates:
    """The `count` best candidates for one query (dim,), by the calling thread alone."""
    faiss: Any = import_module("faiss")
    parameters = None
    if isinstance(index, faiss.IndexHNSW):
        # fewer than `count` would leave places empty
        parameters = faiss.SearchParametersHNSW(efSearch=max(HNSW_EFFORT, count))
    # FAISS 1.15 takes four times as long over a flat index with more threads than queries
    with _faiss_threads(1):
        search = index.search_and_reconstruct if with_vectors else index.search
        scores, rows, *vectors = (
            each[0] for each in search(query[np.newaxis], count, params=parameters)
        )
    return Candidates.from_row(scores, rows, vectors[0] if vectors else None)


def search_flat(index: Any, queries: FloatArray, count: int) -> Iterator[Candidates]:
    """The `count` best candidates for each of queries (queries, dim) in a flat index.

    FAISS takes many queries together for a matrix product, which is much faster.
    """
    faiss: Any = import_module("faiss")
    threads = min(faiss.omp_get_max_threads(), len(queries))

    def search() -> Iterator[tuple[FloatArray, npt.NDArray[np.int64]]]:
        with _faiss_threads(threads):
            return zip(*index.search(queries, count), strict=True)

    if threads == 1:
        found = search()
    else:
        # the threads of OpenMP end with the one that asked for them: none is left for a fork
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(search).result()
    return (Candidates.from_row(scores, rows, None) for scores, rows in found)


def in_threads(work: Callable[[int], Result], count: int) -> list[Result]:
    """`work` for each number below `count`, by as many threads as FAISS may use."""
    faiss: Any = import_module("faiss")
    threads = min(faiss.omp_get_max_threads(), count)
    if threads < 2:
        return [work(number) for number in range(count)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(count)))


@contextmanager
def _faiss_threads(count: int) -> Iterator[None]:
    """Bounds the threads of FAISS for the calling thread: OpenMP keeps a number for each."""
    faiss: Any = import_module("faiss")
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
