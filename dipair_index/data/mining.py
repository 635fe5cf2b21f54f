"""Negatives after DiPair's appendix B: near by the miner's score, but not too near."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dipair_index.records import FloatArray

Rows = npt.NDArray[np.int64]

NEIGHBOUR = np.dtype([("passage", "<i4"), ("score", "<f4")])
"""A retrieved passage by its row, -1 where there was none, and its inner product."""


class Pairs(NamedTuple):
    """Query and passage rows with the miner's scores, each (pairs,)."""

    queries: Rows
    passages: Rows
    scores: FloatArray

    def of(self, chosen: npt.NDArray[Any]) -> Pairs:
        """Some of the pairs, by a mask or by places."""
        return Pairs(self.queries[chosen], self.passages[chosen], self.scores[chosen])


def candidates_of(
    queries: Rows, neighbours: npt.NDArray[np.void], positives: Pairs, top_k: int
) -> Pairs:
    """Returns the `top_k` nearest passages of each query that are not its judged positives.

    `neighbours` is (all queries, retrieved) of `NEIGHBOUR`, best first.
    """
    nearest = neighbours[queries, :top_k]
    rows = np.repeat(queries, nearest.shape[1])
    passages = nearest["passage"].ravel().astype(np.int64)
    scores = nearest["score"].ravel()
    # one number a pair, so that pairs can be looked up
    factor = int(max(passages.max(initial=0), positives.passages.max(initial=0))) + 1
    known = positives.queries * factor + positives.passages
    kept = (passages >= 0) & ~np.isin(rows * factor + passages, known)
    return Pairs(rows, passages, scores).of(kept)


def sample_negatives(candidates: Pairs, positives: Pairs, random: np.random.Generator) -> Pairs:
    """Draws as many candidates as there are positives, or all when there are fewer.

    Each query gets as many as it has positives; where its candidates do not suffice, other
    queries give more.
    """
    wanted = np.bincount(positives.queries, minlength=int(candidates.queries.max(initial=0)) + 1)
    lots = random.random(len(candidates.queries))
    order = np.lexsort((lots, candidates.queries))
    queries = candidates.queries[order]
    place = np.arange(len(order)) - np.searchsorted(queries, queries)
    own = place < wanted[queries]
    others = order[~own]
    missing = len(positives.queries) - int(own.sum())
    drawn = np.concatenate([order[own], others[np.argsort(lots[others])][:missing]])
    drawn.sort()
    return candidates.of(drawn)
