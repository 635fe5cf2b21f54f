"""The results of a search, and the function that sorts them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class RankedPassage(NamedTuple):
    """One result; higher scores are better, and ranks count from 1.

    `retrieval_rank` and `retrieval_score` are those of the first stage: a search, whose scores are
    inner products, BM25 or a fusion of both, or a run. They are None if passages were given without
    a run.

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
    """The seconds that each step of a search took.

    Time that the queries of one call share, such as their encoding, is divided among them equally.
    """

    encode: float = 0.0
    retrieve: float = 0.0
    gather: float = 0.0
    score: float = 0.0

    @classmethod
    def total(cls, timings: Iterable[Timings]) -> Timings:
        """Returns the sum of each step."""
        return cls(*map(sum, zip(cls(), *timings, strict=True)))


class Ranking(list[RankedPassage]):
    """The results of one query, best first: a list with the `timings` of the search.

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
        """The seconds that each step took, summed over all queries."""
        return Timings.total(ranking.timings for ranking in self)


def best_first(
    order: Sequence[str | int], scores: npt.NDArray[np.floating[Any]], top_k: int | None = None
) -> list[int]:
    """Returns the indexes of the `top_k` highest scores, or of all, ties by `order`, e.g. ids."""
    best = sorted(range(len(order)), key=lambda index: (-scores[index], order[index]))
    return best[:top_k]


def probability(logit: float) -> float:
    """Returns the sigmoid of a logit, a score in [0, 1]."""
    # beyond 60, the result is within 1e-26 of 0 or 1, and exp could overflow
    return float(1.0 / (1.0 + np.exp(-np.clip(np.float64(logit), -60.0, 60.0))))


class Stopwatch:
    """Adds up the seconds of each step of a search, beginning with `timings`."""

    def __init__(self, timings: Timings | None = None) -> None:
        self._seconds = (timings or Timings())._asdict()

    def share(self, count: int) -> Timings:
        """Returns the seconds so far, divided by the number of queries."""
        return Timings(*(seconds / max(count, 1) for seconds in self.timings))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Adds the duration of a block to the step `name`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - started

    @property
    def timings(self) -> Timings:
        """The seconds so far."""
        return Timings(**self._seconds)
