"""What a search returns, and the one place that sorts it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class RankedPassage(NamedTuple):
    """One result: higher scores are better, ranks count from 1.

    `retrieval_rank` and `retrieval_score` are those of the first stage: the inner product of the
    vector search, what a run says, or None where passages were given without an order.

    Examples
    --------
    >>> from dipair_index import RankedPassage
    >>> found = RankedPassage(id="p1", score=0.9, rank=1, text="Yeast makes gas.")
    >>> found.rank, found.id, found.retrieval_rank
    (1, 'p1', None)
    """

    id: str
    score: float
    rank: int
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = {}
    retrieval_rank: int | None = None
    retrieval_score: float | None = None


class Timings(NamedTuple):
    """Seconds that each part of a search took.

    What queries of one call share, such as their encoding, counts in equal parts for each.
    """

    encode: float = 0.0
    retrieve: float = 0.0
    gather: float = 0.0
    score: float = 0.0

    @classmethod
    def total(cls, timings: Iterable[Timings]) -> Timings:
        """Returns the sum of each part."""
        return cls(*map(sum, zip(cls(), *timings, strict=True)))


class Ranking(list[RankedPassage]):
    """The results of one query, best first: a list whose `timings` say where the time went.

    Examples
    --------
    >>> from dipair_index import DiPairIndex
    >>> with DiPairIndex.open("my.index") as index:
    ...     ranking = index.search("why does dough rise", top_k=2)
    >>> len(ranking), ranking.timings.encode > 0
    (2, True)
    """

    def __init__(
        self, passages: Iterable[RankedPassage] = (), timings: Timings | None = None
    ) -> None:
        super().__init__(passages)
        self.timings = timings or Timings()


class Rankings(list[Ranking]):
    """The rankings of several queries, in the order in which they were asked.

    Examples
    --------
    >>> from dipair_index import DiPairIndex
    >>> with DiPairIndex.open("my.index") as index:
    ...     rankings = index.search(["why does dough rise", "how bees dance"])
    >>> [ranking[0].id for ranking in rankings], rankings.timings.encode > 0
    (['p1', 'p2'], True)
    """

    @property
    def timings(self) -> Timings:
        """Seconds that each part took, over all queries."""
        return Timings.total(ranking.timings for ranking in self)


def best_first(
    order: Sequence[str | int], scores: npt.NDArray[np.float32], top_k: int | None = None
) -> list[int]:
    """Returns the places of the `top_k` highest scores, or of all, ties by `order`: ids, say."""
    best = sorted(range(len(order)), key=lambda place: (-scores[place], order[place]))
    return best[:top_k]


def probability(logit: float) -> float:
    """Returns the sigmoid: a logit as a score in [0, 1]."""
    # 60 is where float64 cannot tell the result from 0 or 1 by any reader's need
    return float(1.0 / (1.0 + np.exp(-np.clip(np.float64(logit), -60.0, 60.0))))


class Stopwatch:
    """Adds up the seconds of each part of `Timings`, from `timings` on."""

    def __init__(self, timings: Timings | None = None) -> None:
        self._seconds = (timings or Timings())._asdict()

    def share(self, count: int) -> Timings:
        """Returns what falls to each of `count` queries of what has been counted so far."""
        return Timings(*(seconds / max(count, 1) for seconds in self.timings))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the time until its end to the part `name`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - started

    @property
    def timings(self) -> Timings:
        """Returns what has been counted so far."""
        return Timings(**self._seconds)
