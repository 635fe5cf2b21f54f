"""What a match will take, from the head's speed and the size of a few rows, before it is begun."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dipair_index.formats.pair_files import LEFT, RIGHT
from dipair_index.formats.tables import table_bytes
from dipair_index.rerank.offline.given_pairs import GivenPairs
from dipair_index.rerank.offline.matcher import Matcher, StoredTexts
from dipair_index.rerank.offline.run import work_of
from dipair_index.rerank.offline.settings import MatchSettings
from dipair_index.rerank.offline.work import SCORE, Work

SECONDS = 2.0
LEFT_TEXTS, RIGHT_TEXTS = 16, 500


class MatchEstimate(NamedTuple):
    """The pairs that are scored, the head's speed on this machine, and the rows that are written.

    With `min_score`, `rows` and `bytes` are the most that there can be.
    """

    pairs: int
    blocks: int
    pairs_per_second: float
    rows: int
    bytes: int

    @property
    def hours(self) -> float:
        """The hours of this machine."""
        return self.pairs / self.pairs_per_second / 3600


def estimate_match(settings: MatchSettings, *, seconds: float = SECONDS) -> MatchEstimate:
    """Scores pairs of the two indexes for some `seconds`, and counts those of the match.

    Raises `DiPairError` as `run_match` does before its first block.
    """
    with Matcher(settings) as matcher:
        work = work_of(matcher)
        rows = work.pairs
        if settings.top_k is not None:
            rows = min(rows, len(matcher.left) * settings.top_k)
        speed, each = _speed(matcher, seconds), _bytes_per_row(matcher, work)
        return MatchEstimate(work.pairs, work.blocks, speed, rows, round(rows * each))


def _speed(matcher: Matcher, seconds: float) -> float:
    """Returns the pairs that are scored a second, of random ones or of a grid."""
    left = StoredTexts.of(matcher.left, matcher.left.ids_between(0, LEFT_TEXTS))
    right = StoredTexts.of(matcher.right, matcher.right.ids_between(0, RIGHT_TEXTS))
    chance = np.random.default_rng(0)

    def score() -> int:
        if matcher.settings.every:
            return matcher.grid_logits(left, right).size
        at = [chance.integers(0, side.owners[-1] + 1, RIGHT_TEXTS) for side in (left, right)]
        return len(matcher.pair_logits(left, at[0], right, at[1]))

    score()  # the first time, kernels are chosen and memory is taken
    done, started = 0, time.perf_counter()
    while (taken := time.perf_counter() - started) < seconds or not done:
        done += score()
    return done / taken


def _bytes_per_row(matcher: Matcher, work: Work) -> float:
    """Returns the bytes of a row of the output, from some real ids and scores that are random."""
    if isinstance(work, GivenPairs):
        table = work.files.read(0)
    else:
        left = matcher.left.ids_between(0, LEFT_TEXTS)
        right = matcher.right.ids_between(0, RIGHT_TEXTS)
        table = pa.table({LEFT: np.repeat(left, len(right)), RIGHT: right * len(left)})
    scores = np.random.default_rng(0).random(table.num_rows, np.float32)
    written: bytes = table_bytes(table.append_column(SCORE, pa.array(scores)))
    return len(written) / int(table.num_rows)
