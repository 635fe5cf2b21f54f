"""Fuses two rankings of one query's passages, such as a first stage's and the head's, into one.

Both methods work on any two scales, and give equal scores to passages that are equal in both lists:

    rrf        1 / (60 + first rank) + 1 / (60 + second rank), where tied passages share the best of
               their ranks; reciprocal rank fusion (Cormack et al., SIGIR 2009)
    weighted   (1 - weight) * first + weight * second, where each list's scores of this query were
               mapped linearly to [0, 1], its lowest to 0 and its highest to 1; where all are equal,
               to 1

A passage that is missing from a list gets nothing from it: less by `rrf` than its last passage, and
as much by `weighted`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from dipair_index.errors import SettingsError
from dipair_index.rerank.names import FUSION_METHODS, HEAD_WEIGHT, FusionMethod

RANK_OFFSET = 60
"""The constant of reciprocal rank fusion, the authors' value."""

Scores = npt.NDArray[np.float64]


class Fusion(NamedTuple):
    """How two lists are fused; `weight`, from 0 to 1, is the share of the second if `weighted`."""

    method: FusionMethod
    weight: float = HEAD_WEIGHT

    def scores(self, first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
        """Returns the fused scores by passage id of two lists of scores, higher is better.

        The passages of either list are in the result. Raises `SettingsError` if `weighted` and a
        score is infinite.
        """
        ids = list(dict.fromkeys([*first, *second]))
        fused = np.zeros(len(ids))
        for scores, share in ((first, 1 - self.weight), (second, self.weight)):
            held = [index for index, passage_id in enumerate(ids) if passage_id in scores]
            values = np.array([scores[ids[index]] for index in held], np.float64)
            if self.method == "rrf":
                fused[held] += reciprocal_ranks(values)
                continue
            if (infinite := np.flatnonzero(~np.isfinite(values))).size:
                raise SettingsError(
                    f"the score of passage {ids[held[infinite[0]]]} is infinite, which no weight "
                    "can balance: fuse by rrf, which reads ranks alone"
                )
            fused[held] += share * normalised(values)
        return dict(zip(ids, fused.tolist(), strict=True))


def reciprocal_ranks(scores: Scores) -> Scores:
    """Returns 1 / (60 + rank) of each score; equal ones share the best of their ranks."""
    higher = len(scores) - np.searchsorted(np.sort(scores), scores, side="right")
    return np.asarray(1 / (RANK_OFFSET + 1 + higher), np.float64)


def normalised(scores: Scores) -> Scores:
    """Maps scores linearly to [0, 1], the lowest to 0 and the highest to 1; equal ones to 1."""
    if not len(scores) or scores.min() == scores.max():
        return np.ones(len(scores))
    halves = scores / 2  # the difference of two doubles may be infinite
    return np.asarray((halves - halves.min()) / (halves.max() - halves.min()), np.float64)


def checked_fusion(method: Any, weight: Any = None, *, raw_scores: bool = False) -> Fusion | None:
    """Returns the fusion that a caller asks for, None if `method` is None.

    Raises `SettingsError` if there is no such method, if `weight` is not a number from 0 to 1 or
    given without the method that uses it, or if `raw_scores`, logits, are asked for as well.
    """
    if method is not None and method not in FUSION_METHODS:
        raise SettingsError(
            f"fusion must be {', '.join(map(repr, FUSION_METHODS))} or None, got {method!r}"
        )
    if method is not None and raw_scores:
        raise SettingsError("fused scores are no logits: leave out raw_scores or fusion")
    if weight is None:
        return None if method is None else Fusion(method)
    if method != "weighted":
        raise SettingsError(f"weight is that of fusion='weighted', got fusion={method!r}")
    number = isinstance(weight, (int, float, np.integer, np.floating))
    if not number or isinstance(weight, bool) or not 0 <= weight <= 1:
        raise SettingsError(f"weight must be a number from 0 to 1, got {weight!r}")
    return Fusion(cast(FusionMethod, method), float(weight))
