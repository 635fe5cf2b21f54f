"""Searches a FAISS index for candidates, and computes their inner products reproducibly.

The rounding of FAISS's products depends on its version, on the processor, and on the positions of
query and vector in their batches. So FAISS only proposes candidates, more than are requested; they
are sorted by `inner_products`, which gives equal vectors equal scores.
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
"""HNSW's efConstruction, and the least value of its efSearch."""
_HALF_ULP = 2.0**-24
"""The largest relative error of one float32 operation."""

Result = TypeVar("Result")


class Candidates(NamedTuple):
    """FAISS's candidates for one query, best first: rows of the index and scores, (found,) each.

    `exhausted` says that the index finds no more candidates. `vectors`, (found, dim), are None if
    the caller has them.
    """

    rows: npt.NDArray[np.int64]
    scores: FloatArray
    exhausted: bool
    vectors: FloatArray | None = None

    @classmethod
    def from_row(cls, scores: FloatArray, rows: Any, vectors: FloatArray | None) -> Candidates:
        """Makes candidates from one row of FAISS's results, in which -1 marks missing ones."""
        found = rows >= 0
        if found.all():
            return cls(rows, scores, False, vectors)
        vectors = None if vectors is None else vectors[found]
        return cls(rows[found], scores[found], True, vectors)


def inner_products(vectors: FloatArray, query: FloatArray) -> FloatArray:
    """Returns the inner products (vectors,) of vectors (vectors, dim) and a query (dim,).

    Equal vectors have equal products: each is summed alone, in float64 and in a fixed order, and
    then rounded to float32. A matrix product of BLAS gives no such guarantee.
    """
    products: FloatArray = np.einsum(
        "nd,d->n", vectors.astype(np.float64), query.astype(np.float64)
    ).astype(np.float32)
    return products


def rounding_margin(vectors: FloatArray, query: FloatArray) -> float:
    """Returns an upper bound of the difference of FAISS's products of equal vectors.

    With unit roundoff u, dim d, query q and the longest vector v, it is 2 * d * u * |v| * |q|.
    """
    largest = float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors).max(initial=0)))
    length = float(np.sqrt(np.einsum("d,d->", query, query)))
    return 2 * len(query) * _HALF_ULP * largest * length


def is_flat(index: Any) -> bool:
    """Returns whether the index is exact: it compares a query with every original vector."""
    return isinstance(index, import_module("faiss").IndexFlat)


def flat_vectors(index: Any) -> FloatArray | None:
    """Returns a view of the vectors (count, dim) inside a flat index, or HNSW over one.

    The view is valid as long as `index` exists. Returns None for other indexes.
    """
    faiss: Any = import_module("faiss")
    if isinstance(index, faiss.IndexHNSW):
        index = faiss.downcast_index(index.storage)
    if not is_flat(index):
        return None
    stored: FloatArray = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
    return stored.reshape(index.ntotal, index.d)


def search_one(index: Any, query: FloatArray, count: int, *, with_vectors: bool) -> Candidates:
    """Returns the `count` best candidates for one query (dim,), computed by the calling thread."""
    faiss: Any = import_module("faiss")
    parameters = None
    if isinstance(index, faiss.IndexHNSW):
        # HNSW returns at most efSearch candidates
        parameters = faiss.SearchParametersHNSW(efSearch=max(HNSW_EFFORT, count))
    # FAISS 1.15 takes four times as long over a flat index with more threads than queries
    with _faiss_threads(1):
        search = index.search_and_reconstruct if with_vectors else index.search
        scores, rows, *vectors = (
            each[0] for each in search(query[np.newaxis], count, params=parameters)
        )
    return Candidates.from_row(scores, rows, vectors[0] if vectors else None)


def search_flat(index: Any, queries: FloatArray, count: int) -> Iterator[Candidates]:
    """Returns the `count` best candidates for each of queries (queries, dim) in a flat index.

    FAISS computes many queries together as a matrix product, which is much faster.
    """
    faiss: Any = import_module("faiss")
    threads = min(faiss.omp_get_max_threads(), len(queries))

    def search() -> Iterator[tuple[FloatArray, npt.NDArray[np.int64]]]:
        with _faiss_threads(threads):
            return zip(*index.search(queries, count), strict=True)

    if threads == 1:
        found = search()
    else:
        # OpenMP's threads end with the thread that started them, so that none is left at a fork
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(search).result()
    return (Candidates.from_row(scores, rows, None) for scores, rows in found)


def in_threads(work: Callable[[int], Result], count: int) -> list[Result]:
    """Returns `work` of each number below `count`, computed by as many threads as FAISS may use."""
    faiss: Any = import_module("faiss")
    threads = min(faiss.omp_get_max_threads(), count)
    if threads < 2:
        return [work(number) for number in range(count)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(count)))


@contextmanager
def _faiss_threads(count: int) -> Iterator[None]:
    """Limits FAISS's threads for the calling thread; OpenMP has a limit for each thread."""
    faiss: Any = import_module("faiss")
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
