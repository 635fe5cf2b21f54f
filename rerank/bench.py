"""How long a query's way through an index takes, part by part, one query at a time."""

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

PARTS = (*Timings._fields, "rest", "whole")
"""The parts of a search; `rest` is all else: sorting, and reading the texts that are returned."""

WARM_UP = 5
"""Queries that are answered first and not counted: caches fill, and kernels are chosen."""


class Spread(NamedTuple):
    """The median, and what one search in twenty is slower than; milliseconds."""

    p50: float
    p95: float


class Measured(NamedTuple):
    """Searches with one number of candidates.

    `scored` are the passages that the head scored a search: the candidates, or all that the index
    holds. `pairs_per_second` is the head's speed, by the median of its part.
    """

    candidates: int
    scored: int
    searches: int
    pairs_per_second: float
    milliseconds: dict[str, Spread]

    def record(self) -> dict[str, Any]:
        """What `--json` prints of it."""
        parts = {part: spread._asdict() for part, spread in self.milliseconds.items()}
        return {**self._asdict(), "milliseconds": parts}


def measure_searches(
    index: DiPairIndex,
    queries: Sequence[str],
    candidates: int,
    *,
    repeat: int = 1,
    top_k: int = 10,
    report: Callable[[int], None] = lambda count: None,
) -> Measured:
    """Answers all queries `repeat` times, one by one; `report` is told the searches so far.

    Raises `SettingsError` where the index holds no passage, and where there is no query.
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
    milliseconds = dict(zip(PARTS, spreads, strict=True))
    speed = 1000 * scored / milliseconds["score"].p50
    return Measured(candidates, scored, len(rows), speed, milliseconds)


def forget_peak_memory() -> None:
    """Lets `peak_memory` count from now on, where the system can: on Linux."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5)


def peak_memory() -> int | None:
    """Returns the most bytes that this process has held so far; None where nobody can tell."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would count in what the process was forked from
        sizes = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return 1024 * int(sizes[0].split()[1]) if sizes else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
