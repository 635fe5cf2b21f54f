"""The blocks of a match: which pairs each has, and the table of their scores.

A block is a function of its number, the settings and the two indexes alone, so that any machine
computes the same bytes, whichever blocks came before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dipair_index.formats.pair_files import LEFT, RIGHT
from dipair_index.progress import Report
from dipair_index.records import FloatArray
from dipair_index.rerank.offline.matcher import Matcher
from dipair_index.rerank.ranking import best_first
from dipair_index.stores.id_table import Integers

SCORE, RETRIEVAL_SCORE = "score", "retrieval_score"
PLACE, LOGIT = "place", "logit"
"""The columns of what is not final yet: the number of the left text in its block, and the logit."""


class Work(ABC):
    """The blocks of a match, numbered from 0; `pairs` is the number of pairs in all of them."""

    blocks: int
    pairs: int

    def __init__(self, matcher: Matcher) -> None:
        self.matcher = matcher
        self.settings = matcher.settings

    @abstractmethod
    def table(self, block: int, report: Report) -> pa.Table:
        """Returns the scores of a block; `report` is called with the pairs of it scored so far."""

    @abstractmethod
    def pairs_in(self, block: int) -> int:
        """Returns the number of pairs of a block, or an estimate."""

    def parts_of(self, block: int) -> tuple[int, range] | None:
        """Returns the number of the output that a block is a part of, and all blocks of it.

        None if the block's table is an output of its own.
        """
        return None

    def merged(self, output: int, parts: Sequence[pa.Table]) -> pa.Table:
        """Returns an output that is made from the tables of several blocks."""
        raise NotImplementedError


class Best(NamedTuple):
    """Pairs in the order of their output."""

    places: Integers  # (pairs,) of the left texts
    right_ids: list[str]
    at: Integers  # (pairs,) rows of `right_ids`
    logits: FloatArray  # (pairs,)
    retrieval: FloatArray | None = None  # (pairs,) the scores of the first stage

    def kept(self, rows: npt.ArrayLike) -> Best:
        """Returns some of the pairs, which are given by rows or by a mask."""
        chosen = np.asarray(rows)
        retrieval = None if self.retrieval is None else self.retrieval[chosen]
        return Best(
            self.places[chosen], self.right_ids, self.at[chosen], self.logits[chosen], retrieval
        )

    def best_of_each(self, top_k: int | None) -> Best:
        """Returns the `top_k` best pairs of each left text, best first, ties by the right id."""
        rows: list[int] = []
        # equal places stand together
        starts = np.flatnonzero(np.diff(self.places, prepend=-1)).tolist()
        for start, stop in zip(starts, [*starts[1:], len(self.places)], strict=True):
            logits = self.logits[start:stop]
            chosen = np.arange(len(logits))
            if top_k is not None and top_k < len(logits):
                # the last one's ties too, among which ids decide
                chosen = np.flatnonzero(logits >= np.partition(logits, -top_k)[-top_k])
            ids = [self.right_ids[row] for row in self.at[start + chosen].tolist()]
            rows += (start + chosen[best_first(ids, logits[chosen], top_k)]).tolist()
        return self.kept(np.array(rows, np.int64))

    def column(self) -> pa.Array:
        """Returns the right ids, (pairs,)."""
        return pa.array(self.right_ids, pa.string()).take(pa.array(self.at))


def scored(matcher: Matcher, left_ids: Sequence[str], best: Best) -> pa.Table:
    """Returns the output table of some pairs."""
    columns = {
        LEFT: pa.array(left_ids, pa.string()).take(pa.array(best.places)),
        RIGHT: best.column(),
        SCORE: pa.array(matcher.scores(best.logits), pa.float32()),
    }
    if best.retrieval is not None:
        columns[RETRIEVAL_SCORE] = pa.array(best.retrieval, pa.float32())
    return pa.table(columns)


def above(matcher: Matcher, logits: FloatArray) -> npt.NDArray[np.bool_]:
    """Returns which logits reach `min_score`, in the unit of the scores."""
    least = matcher.settings.min_score
    if least is None:
        return np.ones(logits.shape, bool)
    found: npt.NDArray[np.bool_] = matcher.scores(logits) >= least
    return found
