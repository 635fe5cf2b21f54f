"""Every left text with every right one: a grid, cut into blocks of some rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np
import pyarrow as pa

from dipair_index.formats.pair_files import RIGHT
from dipair_index.progress import Report
from dipair_index.rerank.offline.matcher import Matcher, StoredTexts
from dipair_index.rerank.offline.work import LOGIT, PLACE, Best, Work, above, scored

LEFT_AT_LEAST = 64
"""The left texts of a block for which its right texts are read and prepared once: at so many, that
work is under 2 % of a transformer head's."""


class AllPairs(Work):
    """Blocks of left texts and of right texts, in the order of the indexes.

    Of a symmetric model, a set against itself has each unordered pair once, its earlier text on
    the left; with `top_k`, each text has its own best others, so that all ordered pairs are scored.
    A text is never paired with itself. With `top_k`, the blocks of the same left texts are merged.
    """

    def __init__(self, matcher: Matcher) -> None:
        super().__init__(matcher)
        self._count = (len(matcher.left), len(matcher.right))
        size = self.settings.block_pairs
        left, right = self._count
        least = max(LEFT_AT_LEAST, isqrt(size) // 8)
        self._rows = max(1, min(left, size, max(least, size // max(right, 1))))
        self._columns = max(1, min(right, size // self._rows))
        self._is_triangle = matcher.is_symmetric and self.settings.top_k is None
        across = -(-right // self._columns)
        starts = np.arange(0, left, self._rows)
        # a triangle's row begins with the block of the first right text after its first left one
        self._skipped = (starts + 1) // self._columns if self._is_triangle else 0 * starts
        self._ends = np.cumsum(np.maximum(across - self._skipped, 0))
        self.blocks = int(self._ends[-1]) if len(self._ends) else 0
        self.pairs = left * right
        if matcher.is_self_match:
            self.pairs -= left
        if self._is_triangle:
            self.pairs //= 2

    def _within(self, block: int) -> tuple[range, range]:
        """Returns the positions of the left and the right texts of a block."""
        row = int(np.searchsorted(self._ends, block, side="right"))
        before = int(self._ends[row - 1]) if row else 0
        column = block - before + int(self._skipped[row])
        first, left = row * self._rows, column * self._columns
        lefts = range(first, min(first + self._rows, self._count[0]))
        rights = range(left, min(left + self._columns, self._count[1]))
        if self._is_triangle:
            rights = range(max(rights.start, first + 1), rights.stop)
        return lefts, rights

    def pairs_in(self, block: int) -> int:
        """Returns the number of pairs of a block."""
        lefts, rights = self._within(block)
        if self._is_triangle:
            return sum(max(0, rights.stop - max(rights.start, each + 1)) for each in lefts)
        both = range(max(lefts.start, rights.start), min(lefts.stop, rights.stop))
        return len(lefts) * len(rights) - (len(both) if self.matcher.is_self_match else 0)

    def parts_of(self, block: int) -> tuple[int, range] | None:
        """Returns the row of the grid and its blocks, if those are merged."""
        if self.settings.top_k is None or self._columns >= self._count[1]:
            return None
        row = int(np.searchsorted(self._ends, block, side="right"))
        return row, range(int(self._ends[row - 1]) if row else 0, int(self._ends[row]))

    def table(self, block: int, report: Report) -> pa.Table:
        """Returns the scores of a block, in the order of the left texts.

        With `top_k`, those of a left text are best first; otherwise in the order of the right.
        """
        lefts, rights = self._within(block)
        best = self._best(lefts, rights)
        report(self.pairs_in(block))
        if self.parts_of(block) is None:
            return scored(self.matcher, self._left_ids(lefts), best)
        return pa.table({PLACE: best.places, RIGHT: best.column(), LOGIT: best.logits})

    def _best(self, lefts: range, rights: range) -> Best:
        matcher = self.matcher
        right_ids = matcher.right.ids_between(rights.start, rights.stop)
        logits = matcher.grid_logits(
            StoredTexts.of(matcher.left, self._left_ids(lefts)),
            StoredTexts.of(matcher.right, right_ids),
        )
        chosen = above(matcher, logits)
        if matcher.is_self_match:
            rows, columns = np.asarray(lefts)[:, np.newaxis], np.asarray(rights)
            chosen &= columns > rows if self._is_triangle else columns != rows
        places, at = np.nonzero(chosen)
        best = Best(places, right_ids, at, logits[places, at])
        return best if self.settings.top_k is None else best.best_of_each(self.settings.top_k)

    def _left_ids(self, lefts: range) -> list[str]:
        return self.matcher.left.ids_between(lefts.start, lefts.stop)

    def merged(self, output: int, parts: Sequence[pa.Table]) -> pa.Table:
        """Returns the best pairs of a row of the grid from those of its blocks."""
        table = pa.concat_tables(parts)
        best = Best(
            table[PLACE].to_numpy(),
            table[RIGHT].to_pylist(),
            np.arange(table.num_rows),
            table[LOGIT].to_numpy(),
        )
        lefts, _ = self._within(int(self._ends[output]) - 1)
        best = best.kept(np.argsort(best.places, kind="stable"))
        return scored(self.matcher, self._left_ids(lefts), best.best_of_each(self.settings.top_k))
