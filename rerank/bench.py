"""Measures how long the steps of a search take, one query at a time."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dipair_index.errors import SettingsError
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.ranking import Timings

STEPS = (*Timings._fields, "rest", "whole")
"""The steps of a search; `rest` is sorting, and reading the texts of the results."""

WARM_UP = 5
"""Queries that are answered first and not timed, to fill caches and choose kernels."""


class Spread(NamedTuple):
    """The median and the 95th percentile, in milliseconds."""

    p50: float
    p95: float


class SearchTimes(NamedTuple):
    """The times of `searches` searches with one number of candidates.

    `scored` is the number of passages that the head scored per search: the candidates, or all
    passages if the index has fewer. `pairs_per_second` is the head's speed, from its median time.
    """

    candidates: int
    scored: int
    searches: int
    pairs_per_second: float
    milliseconds: dict[str, Spread]

    def record(self) -> dict[str, Any]:
        """Returns the dictionary that `--json` prints."""
        steps = {step: spread._asdict() for step, spread in self.milliseconds.items()}
        return {**self._asdict(), "milliseconds": steps}


def measure_searches(
    index: DiPairIndex,
    queries: Sequence[str],
    candidates: int,
    *,
    repeat: int = 1,
    top_k: int = 10,
    report: Callable[[int], None] = lambda count: None,
) -> SearchTimes:
    """Answers all queries `repeat` times, one by one.

    `report` is called with the number of searches so far. Raises `SettingsError` if the index has
    no passage, or if there is no query.
    """
    scored = min(candidates, len(index))
    if not scored or not queries:
        what = "the index holds no passage" if queries else "there is no query"
        raise SettingsError(f"{what}: there is nothing to time")
    for query in islice(queries, WARM_UP):
        index.search(query, min(top_k, candidates), candidates)
    rows = []
    for _ in range(repeat):
        for query in queries:
            started = time.perf_counter()
            found = index.search(query, min(top_k, candidates), candidates)
            whole = time.perf_counter() - started
            rows.append((*found.timings, whole - sum(found.timings), whole))
            report(len(rows))
    p50, p95 = 1000 * np.percentile(rows, [50, 95], axis=0)
    spreads = map(Spread, p50.tolist(), p95.tolist())
    milliseconds = dict(zip(STEPS, spreads, strict=True))
    speed = 1000 * scored / milliseconds["score"].p50
    return SearchTimes(candidates, scored, len(rows), speed, milliseconds)


def forget_peak_memory() -> None:
    """Resets the peak that `peak_memory` returns, on Linux."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5)


def peak_memory() -> int | None:
    """Returns the peak memory of this process in bytes; None if the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would include the memory of the process that this one was forked from
        sizes = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return 1024 * int(sizes[0].split()[1]) if sizes else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
