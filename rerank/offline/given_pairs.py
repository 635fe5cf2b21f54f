"""The pairs of a file or a folder, scored in the order given."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dipair_index.errors import FormatError, MissingPassagesError
from dipair_index.formats.pair_files import LEFT, RIGHT, PairFiles, texts
from dipair_index.progress import Report
from dipair_index.rerank.offline.matcher import Matcher, StoredTexts
from dipair_index.rerank.offline.work import SCORE, Work
from dipair_index.stores.id_table import Integers
from dipair_index.stores.snapshot import Snapshot
from dipair_index.words import counted

PAIRS_AT_ONCE = 8192
"""The pairs whose tokens are in memory together: up to 26 MB of them at 4/8/256 in int8."""


class Gathered(NamedTuple):
    """One column of pairs: each different text once, and each pair's place among them."""

    texts: StoredTexts
    at: Integers


class GivenPairs(Work):
    """Blocks of the rows of pair files; other columns are carried along.

    Raises `FormatError` as `PairFiles` does, or if the files have a column of scores already.
    """

    def __init__(self, matcher: Matcher) -> None:
        super().__init__(matcher)
        self.files = PairFiles(str(self.settings.pairs), self.settings.block_pairs)
        if SCORE in self.files.schema.names:
            raise FormatError(
                f"{self.settings.pairs} has a column {SCORE} already: rename it or leave it out"
            )
        self.blocks, self.pairs = self.files.blocks, self.files.pairs

    def pairs_in(self, block: int) -> int:
        """Returns the number of pairs of a block; of TSV, an estimate."""
        return self.files.pairs_in(block)

    def table(self, block: int, report: Report) -> pa.Table:
        """Returns the rows of a block with their scores.

        Raises `MissingPassagesError`, which names the row, if an id is in neither index.
        """
        table = self.files.read(block)
        logits = np.empty(table.num_rows, np.float32)
        # the tokens of the next pairs are read while these are scored
        with ThreadPoolExecutor(1) as reader:
            for start, (left, right) in _ahead(reader, self, block, table):
                pairs = slice(start, start + len(left.at))
                logits[pairs] = self.matcher.pair_logits(left.texts, left.at, right.texts, right.at)
                report(pairs.stop)
        place = max(table.schema.get_field_index(name) for name in (LEFT, RIGHT)) + 1
        scores = pa.array(self.matcher.scores(logits), pa.float32())
        return table.add_column(place, pa.field(SCORE, pa.float32()), scores)

    def gathered(self, block: int, table: pa.Table, start: int) -> tuple[Gathered, Gathered]:
        """Returns both sides of `PAIRS_AT_ONCE` pairs of a block from `start` on."""
        pairs = table.slice(start, PAIRS_AT_ONCE)
        left, right = (
            self._column(block, start, pairs, name, snapshot)
            for name, snapshot in ((LEFT, self.matcher.left), (RIGHT, self.matcher.right))
        )
        return left, right

    def _column(
        self, block: int, start: int, pairs: pa.Table, name: str, snapshot: Snapshot
    ) -> Gathered:
        coded = texts(pairs[name]).combine_chunks().dictionary_encode()
        ids = coded.dictionary.to_pylist()
        at = coded.indices.to_numpy().astype(np.int64)
        try:
            return Gathered(StoredTexts.of(snapshot, ids), at)
        except MissingPassagesError as error:
            absent = np.flatnonzero(~snapshot.contains(ids))
            row = int(np.flatnonzero(np.isin(at, absent))[0])
            index = self.settings.left if name == LEFT else self.settings.right
            where = self.files.row_name(block, start + row)
            more = f", nor {counted(len(absent) - 1, 'other')} near it" if len(absent) > 1 else ""
            raise MissingPassagesError(
                f"{where}: the {name} id {ids[at[row]]} is not in {index}{more}: add these texts "
                "to the index, or leave the rows out"
            ) from error


def _ahead(
    reader: ThreadPoolExecutor, work: GivenPairs, block: int, table: pa.Table
) -> Iterator[tuple[int, tuple[Gathered, Gathered]]]:
    starts = range(0, table.num_rows, PAIRS_AT_ONCE)
    waiting = reader.submit(work.gathered, block, table, 0) if starts else None
    for start in starts:
        assert waiting is not None
        gathered = waiting.result()
        following = start + PAIRS_AT_ONCE
        if following < table.num_rows:
            waiting = reader.submit(work.gathered, block, table, following)
        yield start, gathered
