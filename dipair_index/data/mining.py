"""Mines negatives as DiPair's appendix B does: near passages that score below a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dipair_index.data.equal_texts import EqualTexts, Rows, first_of_each
from dipair_index.errors import SettingsError
from dipair_index.records import FloatArray

NEIGHBOUR = np.dtype([("passage", "<i4"), ("score", "<f4")])
"""A retrieved passage: its row, -1 if none was found, and its inner product with the query."""


MAX_SCORE_OF_USE = 0.53
"""Appendix B's threshold, which fits the scores of the Universal Sentence Encoder."""
DEFAULT_PERCENTILE = 92.0
"""The threshold for other embedders: the percentage of USE's candidates that score below 0.53,
measured with the 12 K train queries and 51 K passages of an MS MARCO subset (91.9)."""


@dataclass(frozen=True)
class DatasetSettings:
    """How negatives and transfer pairs are chosen; without a threshold, by the embedder's default.

    Raises `SettingsError` if a setting is out of range.
    """

    max_score: float | None = None
    max_score_percentile: float | None = None
    top_k_negatives: int = 30
    transfer_top_k: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_score is not None and self.max_score_percentile is not None:
            raise SettingsError("give --max-score or --max-score-percentile, not both")
        if self.max_score_percentile is not None and not 0 < self.max_score_percentile <= 100:
            raise SettingsError(
                f"--max-score-percentile {self.max_score_percentile:g} is out of range: "
                "expected more than 0 and at most 100"
            )
        if min(self.top_k_negatives, self.transfer_top_k) < 1:
            raise SettingsError("--top-k-negatives and --transfer-top-k must be 1 or more")
        if self.seed < 0:
            raise SettingsError(f"--seed must be 0 or more, got {self.seed}")


class Pairs(NamedTuple):
    """Query and passage rows with the miner's scores, each (pairs,)."""

    queries: Rows
    passages: Rows
    scores: FloatArray

    def select(self, chosen: npt.NDArray[Any]) -> Pairs:
        """Returns the pairs that a mask or an array of rows selects."""
        return Pairs(self.queries[chosen], self.passages[chosen], self.scores[chosen])


def candidates_of(
    queries: Rows,
    neighbours: npt.NDArray[np.void],
    positives: Pairs,
    equal: EqualTexts,
    top_k: int,
) -> Pairs:
    """Returns the passages among the `top_k` nearest of each query that may be its negatives.

    Passages with the words of a judged positive are left out, whether the query or another one
    with its words has that positive. Of passages with the same words, the nearest is returned.
    `queries` are rows (queries,); `neighbours` is (all queries, retrieved) of `NEIGHBOUR`, best
    first.
    """
    nearest = neighbours[queries, :top_k]  # (queries, top_k)
    passages = nearest["passage"].astype(np.int64)
    rows = np.broadcast_to(queries[:, None], passages.shape)
    # a pair of texts as one number, so that pairs can be compared as sets
    factor = len(equal.passages)
    texts = equal.passages[passages]
    pairs = equal.queries[rows] * factor + texts
    known = equal.queries[positives.queries] * factor + equal.passages[positives.passages]
    found = passages >= 0
    kept = found & first_of_each(np.where(found, texts, -1)) & ~np.isin(pairs, known)
    return Pairs(rows[kept], passages[kept], nearest["score"][kept])


def sample_negatives(candidates: Pairs, positives: Pairs, random: np.random.Generator) -> Pairs:
    """Draws as many candidates as there are positives, or all if there are fewer.

    Each query gets as many negatives as it has positives; if its candidates do not suffice, more
    are drawn for other queries.
    """
    wanted = np.bincount(positives.queries, minlength=int(candidates.queries.max(initial=0)) + 1)
    draws = random.random(len(candidates.queries))
    order = np.lexsort((draws, candidates.queries))
    queries = candidates.queries[order]
    position = np.arange(len(order)) - np.searchsorted(queries, queries)
    own = position < wanted[queries]
    others = order[~own]
    missing = len(positives.queries) - int(own.sum())
    drawn = np.concatenate([order[own], others[np.argsort(draws[others])][:missing]])
    drawn.sort()
    return candidates.select(drawn)


def threshold(
    scores: FloatArray, embedder: str, settings: DatasetSettings
) -> tuple[float, float | None]:
    """Returns the score below which a candidate may be a negative, and its percentile.

    The percentile is None if the score was given, or is that of the Universal Sentence Encoder.
    """
    percentile = settings.max_score_percentile
    if settings.max_score is not None:
        return settings.max_score, None
    if percentile is None and embedder == "use":
        return MAX_SCORE_OF_USE, None
    percentile = DEFAULT_PERCENTILE if percentile is None else percentile
    if percentile == 100 or not len(scores):
        return float("inf"), percentile
    return float(np.percentile(scores, percentile)), percentile
