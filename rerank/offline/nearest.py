"""Each left text with the right ones that the vector search finds nearest."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dipair_index.progress import Report
from dipair_index.rerank.offline.matcher import Matcher, StoredTexts
from dipair_index.rerank.offline.work import Best, Work, above, scored

SEARCHED_AT_ONCE = 256


class Nearest(Work):
    """Blocks of left texts, in the order of their index; a text is never paired with itself.

    The pairs of a left text are best first, with the cosine of the vectors as `retrieval_score`.
    """

    def __init__(self, matcher: Matcher) -> None:
        super().__init__(matcher)
        others = len(matcher.right) - matcher.is_self_match
        self._nearest = min(self.settings.nearest or 1, others)
        self._count = len(matcher.left)
        self._rows = max(1, self.settings.block_pairs // max(self._nearest, 1))
        self.blocks = -(-self._count // self._rows)
        self.pairs = self._count * self._nearest

    def _lefts(self, block: int) -> range:
        start = block * self._rows
        return range(start, min(start + self._rows, self._count))

    def pairs_in(self, block: int) -> int:
        """Returns the number of pairs of a block; approximate kinds of FAISS may find fewer."""
        return len(self._lefts(block)) * self._nearest

    def table(self, block: int, report: Report) -> pa.Table:
        """Returns the scores of a block, in the order of the left texts."""
        lefts, tables, done = self._lefts(block), [], 0
        for start in range(lefts.start, lefts.stop, SEARCHED_AT_ONCE):
            table, scored_here = self._some(start, min(start + SEARCHED_AT_ONCE, lefts.stop))
            tables.append(table)
            done += scored_here
            report(done)
        return pa.concat_tables(tables).combine_chunks()

    def _some(self, start: int, stop: int) -> tuple[pa.Table, int]:
        """Returns the table of some left texts, and the number of pairs that were scored for it."""
        matcher = self.matcher
        left_ids = matcher.left.ids_between(start, stop)
        vectors = matcher.left.vectors_between(start, stop)
        found, cosines = matcher.right.search(vectors, self._nearest + matcher.is_self_match)
        near = [
            (place, passage_id, cosine)
            for place, (own, ids) in enumerate(zip(left_ids, found, strict=True))
            for passage_id, cosine in self._others(own, ids, cosines[place].tolist())
        ]
        places = np.array([place for place, _, _ in near], np.int64)
        right_ids = list(dict.fromkeys(passage_id for _, passage_id, _ in near))
        row_of = {passage_id: row for row, passage_id in enumerate(right_ids)}
        at = np.array([row_of[passage_id] for _, passage_id, _ in near], np.int64)
        logits = matcher.pair_logits(
            StoredTexts.of(matcher.left, left_ids),
            places,
            StoredTexts.of(matcher.right, right_ids),
            at,
        )
        retrieval = np.array([cosine for _, _, cosine in near], np.float32)
        best = Best(places, right_ids, at, logits, retrieval).kept(above(matcher, logits))
        return scored(matcher, left_ids, best.best_of_each(self.settings.top_k)), len(near)

    def _others(self, own: str, ids: list[str], cosines: list[float]) -> list[tuple[str, float]]:
        """Returns what was found for a left text, without itself in a match of one set."""
        pairs = list(zip(ids, cosines, strict=False))
        if self.matcher.is_self_match:
            pairs = [pair for pair in pairs if pair[0] != own]
        return pairs[: self._nearest]
