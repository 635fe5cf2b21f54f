"""Exact search in numpy, the oracle that FaissIndex is compared with; and what both share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dipair_index.errors import SettingsError
from dipair_index.records import FloatArray

_QUERIES_AT_ONCE = 256
_VECTORS_AT_ONCE = 65_536


class ExactIndex:
    """Scores every vector for every query."""

    def __init__(self, ids: Sequence[str], vectors: FloatArray) -> None:
        self.ids = list(ids)
        self._vectors = checked_vectors(vectors, count=len(self.ids))
        self._rank_of_id = np.argsort(np.argsort(np.array(self.ids, dtype=object)))

    def search(self, vectors: FloatArray, top_k: int) -> tuple[list[list[str]], FloatArray]:
        """Ids of the largest inner products for each of vectors (queries, dim), and these.

        Best first, ties by id; min(top_k, count) of them.
        """
        vectors = checked_query_vectors(vectors, dim=self._vectors.shape[1], top_k=top_k)
        kept = min(top_k, len(self.ids))
        ids: list[list[str]] = []
        best = np.empty((len(vectors), kept), np.float32)
        for start in range(0, len(vectors), _QUERIES_AT_ONCE):
            scores = vectors[start : start + _QUERIES_AT_ONCE] @ self._vectors.T
            for query, row in enumerate(scores, start):
                order = np.lexsort((self._rank_of_id, -row))[:kept]
                ids.append([self.ids[each] for each in order])
                best[query] = row[order]
        return ids, best


def checked_vectors(vectors: FloatArray, *, count: int) -> FloatArray:
    """Vectors (count, dim) as contiguous float32; SettingsError for other shapes, NaN, infinity."""
    if np.ndim(vectors) != 2 or len(vectors) != count:
        raise SettingsError(f"vectors must be (ids, dim) for {count} ids, got {np.shape(vectors)}")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    parts = range(0, count, _VECTORS_AT_ONCE)
    if not all(np.isfinite(vectors[start : start + _VECTORS_AT_ONCE]).all() for start in parts):
        raise SettingsError("vectors must be finite, got NaN or infinity")
    return vectors


def checked_query_vectors(vectors: FloatArray, *, dim: int, top_k: int) -> FloatArray:
    """Query vectors (queries, dim), and a top_k of 1 or more."""
    if top_k < 1:
        raise SettingsError(f"top_k must be 1 or more, got {top_k}")
    vectors = checked_vectors(vectors, count=len(vectors))
    if vectors.shape[1] != dim:
        raise SettingsError(
            f"query vectors must have the index's {dim} numbers, got {vectors.shape[1]}"
        )
    return vectors
