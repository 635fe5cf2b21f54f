"""Collects the tuples of a file: texts by id, labels by tuple, and the split of each query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dipair_index.data.equal_texts import plain_text
from dipair_index.digests import short_digest
from dipair_index.errors import FormatError, SettingsError
from dipair_index.formats.tuples import Columns, TupleRow
from dipair_index.records import HELD_OUT, SPLITS
from dipair_index.words import counted

Ids: TypeAlias = tuple[str, ...]
"""The ids of a tuple's texts, one per side."""
Texts: TypeAlias = dict[str, dict[str, str]]
"""Texts by side, then id."""

ALSO_CALLED = {"dev": "valid", "val": "valid", "validation": "valid"}


@dataclass(frozen=True)
class SplitSettings:
    """How tuples are read and split; the shares are of the labelled queries.

    Raises `SettingsError` if a share, `max_label` or `duplicates` is out of range.
    """

    valid_share: float = 0.1
    test_share: float = 0.1
    max_label: float = 1.0
    duplicates: str = "refuse"
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.valid_share, self.test_share) <= 0 or self.valid_share + self.test_share >= 1:
            raise SettingsError(
                "--valid-share and --test-share must be above 0 and leave some queries to train "
                f"on, got {self.valid_share:g} and {self.test_share:g}"
            )
        if not self.max_label > 0:
            raise SettingsError(f"--max-label must be above 0, got {self.max_label:g}")
        if self.duplicates not in ("refuse", "mean"):
            raise SettingsError(f"--duplicates must be refuse or mean, got {self.duplicates}")


@dataclass
class Judgement:
    """The label of a tuple of texts: the mean over the `rows` that repeat it."""

    label: float
    rows: int
    line: int  # of the first row


class CollectedTuples:
    """Texts by id and labels by tuple, in the order of their first rows."""

    def __init__(self, columns: Columns, duplicates: str) -> None:
        self._columns = columns
        self._duplicates = duplicates
        self.texts: Texts = {side: {} for side in columns.sides}
        self._ids: dict[str, dict[str, str]] = {side: {} for side in columns.sides}
        self.labels: dict[Ids, Judgement] = {}
        self._judgements: dict[str, Judgement] = {}  # by a digest of the texts, whatever their ids
        self.unlabelled: dict[Ids, None] = {}
        self.given_splits: dict[str, str] = {}
        self._split_line: dict[str, int] = {}
        self.rows = self.repeated = self.held_out = 0

    def add(self, row: TupleRow, name: str) -> None:
        """Adds one row of the file `name`.

        Raises `FormatError` if it contradicts an earlier row: an id with another text, a tuple
        with another label, or a query with another split.
        """
        self.rows += 1
        ids = tuple(
            self._id(side, text, given, f"line {row.line} of {name}")
            for side, text, given in zip(self._columns.sides, row.texts, row.ids, strict=True)
        )
        if row.label is None:
            if ALSO_CALLED.get(row.split, row.split) in HELD_OUT:
                self.held_out += 1
            else:
                self.repeated += ids in self.unlabelled
                self.unlabelled[ids] = None
            return
        if self._columns.split is not None:
            self._note_split(row, name)
        repeated = ids in self.labels
        self.repeated += repeated
        judgement = Judgement(row.label, 1, row.line)
        known = self._judgements.setdefault(_texts_key(row.texts), judgement)
        self.labels[ids] = known
        if known is judgement:
            return
        if self._duplicates == "mean":
            known.label = (known.label * known.rows + row.label) / (known.rows + 1)
            known.rows += 1
        elif known.label != row.label:
            what = "the same tuple has" if repeated else "the same texts, under other ids, have"
            raise FormatError(
                f"line {row.line} of {name}, column {self._columns.label}: {what} "
                f"the label {row.fields[self._columns.label or '']} here and another on line "
                f"{known.line}: keep one, or pass --duplicates mean"
            )

    def query_of(self, ids: Ids) -> str:
        """Returns the query of a tuple in lower case, by which splits are assigned.

        Queries that differ in case and spacing only are thereby in the same split.
        """
        return plain_text(self.texts["query"][ids[0]])

    def split_of_query(self, settings: SplitSettings) -> dict[str, str]:
        """Returns the split of each query; those of valid and test are drawn at random.

        Raises `FormatError` if there are fewer than three labelled queries.
        """
        queries = list(dict.fromkeys(map(self.query_of, self.labels)))
        if len(queries) < len(SPLITS):
            too_few = counted(
                len(queries), "labelled query is too few", "labelled queries are too few"
            )
            raise FormatError(
                f"{too_few} to split: expected {len(SPLITS)}, since no query may be in two splits"
            )
        order = np.random.default_rng(settings.seed).permutation(len(queries))
        valid = max(1, int(len(queries) * settings.valid_share))
        test = max(1, int(len(queries) * settings.test_share))
        splits = dict.fromkeys(queries, "train")
        splits |= {queries[index]: "valid" for index in order[:valid]}
        splits |= {queries[index]: "test" for index in order[valid : valid + test]}
        return splits

    def texts_of(self, tuples: Sequence[Ids]) -> Texts:
        """Returns the texts of some tuples by side and id, in the order in which they were read."""
        used = [set(of_side) for of_side in zip(*tuples, strict=True)]
        return {
            side: {name: text for name, text in self.texts[side].items() if name in names}
            for side, names in zip(self._columns.sides, used, strict=True)
        }

    def _id(self, side: str, text: str, given: str | None, where: str) -> str:
        name = given
        if name is None:
            known = self._ids[side]
            name = known.get(text)
            if name is None:
                name = known[text] = short_digest(text.encode())
        if self.texts[side].setdefault(name, text) != text:
            raise FormatError(
                f"{where}, column {self._columns.ids.get(side)}: the {side} {name} had another "
                "text before: give every text an id of its own"
            )
        return name

    def _note_split(self, row: TupleRow, name: str) -> None:
        where = f"line {row.line} of {name}, column {self._columns.split}"
        split = ALSO_CALLED.get(row.split, row.split)
        if split not in SPLITS:
            raise FormatError(
                f"{where}: expected train, valid or test, got {row.split or 'nothing'}"
            )
        query = plain_text(row.texts[0])
        line = self._split_line.setdefault(query, row.line)
        if self.given_splits.setdefault(query, split) != split:
            raise FormatError(
                f"{where}: the query {row.texts[0]!r} is in {split} here and in "
                f"{self.given_splits[query]} on line {line}: give a query one split, or leave "
                "split out of --columns"
            )


def _texts_key(texts: Sequence[str]) -> str:
    """Returns a digest of the texts' words: equal for texts that differ in spacing only."""
    return short_digest("\t".join(" ".join(text.split()) for text in texts).encode())
