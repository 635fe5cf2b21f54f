"""A dataset of labelled pairs or n-ary tuples, such as P2T-REL (DiPair, sections 3.8 and 4.1).

Nothing is mined: train, valid and test hold the labelled tuples, split by query, and the transfer
set holds those of train and all that have no label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from dipair_index.data.dataset import id_columns
from dipair_index.data.directory import write_record
from dipair_index.data.layout import DatasetLayout
from dipair_index.data.splits import plain_text
from dipair_index.digests import TextsDigest
from dipair_index.errors import FormatError, SettingsError
from dipair_index.formats.lines import source_name
from dipair_index.formats.tables import write_table
from dipair_index.formats.tuples import Columns, TupleRow, read_tuples
from dipair_index.progress import Progress
from dipair_index.records import HELD_OUT, SPLITS

Ids: TypeAlias = tuple[str, ...]
"""The items of a tuple, one a side."""
Texts: TypeAlias = dict[str, dict[str, str]]
"""Texts by side, then id."""

ALSO_CALLED = {"dev": "valid", "val": "valid", "validation": "valid"}


@dataclass(frozen=True)
class SplitSettings:
    """How tuples are read and split: shares are of the labelled queries."""

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


def build_pair_dataset(
    source: str | Path,
    columns: Columns,
    layout: DatasetLayout,
    settings: SplitSettings,
    *,
    progress: Progress,
    transfer: str | Path | None = None,
) -> dict[str, Any]:
    """Fills the directory from a file of tuples, and returns what its `dataset.json` says.

    The rows of the file `transfer` have no say in labels. The same input, settings and seed give
    the same bytes in every file. Raises `FormatError` as `read_tuples` does, and for tuples that
    cannot be trained on or measured, and `SettingsError` for sides that no model can have.
    """
    if columns.label is None:
        raise SettingsError("--columns names no label: add label=COLUMN")
    if further := columns.sides[2:]:
        from dipair_index.models.config import check_side_name

        for side in further:
            check_side_name(side)
    name = source_name(source)
    tuples = _Tuples(columns, settings.duplicates)
    with progress("reading tuples", "rows") as report:
        for row in read_tuples(source, columns, max_label=settings.max_label):
            tuples.add(row, name)
            report(tuples.rows)
        for row in read_tuples(transfer, columns.unlabelled) if transfer else ():
            tuples.add(row, source_name(transfer or ""))
            report(tuples.rows)
    if not tuples.labels:
        raise FormatError(
            f"no row of {name} has a label in the column {columns.label}: expected numbers, and "
            "nothing where a label is not known"
        )
    split_of = tuples.split_of_query(settings) if columns.split is None else tuples.given_splits
    rows: dict[str, list[Ids]] = {split: [] for split in SPLITS}
    for ids in tuples.labels:
        rows[split_of[tuples.query_of(ids)]].append(ids)
    _check_splits(rows, tuples, name)
    candidates = [ids for ids in tuples.unlabelled if ids not in tuples.labels]
    unlabelled = [ids for ids in candidates if split_of.get(tuples.query_of(ids)) not in HELD_OUT]
    rows["transfer"] = [*rows["train"], *unlabelled]
    texts = tuples.texts_of([*chain(*rows.values())])
    return write_record(
        layout,
        {
            "dataset": "pairs",
            "sides": list(columns.sides),
            "parameters": {
                "valid_share": settings.valid_share,
                "test_share": settings.test_share,
                "given_splits": columns.split is not None,
                "max_label": settings.max_label,
                "duplicates": settings.duplicates,
                "seed": settings.seed,
            },
            "items": {side: len(of_side) for side, of_side in texts.items()},
            "left_out": {
                "rows that repeat a tuple": tuples.repeated,
                "unlabelled tuples of held-out queries": tuples.held_out
                + len(candidates)
                - len(unlabelled),
            },
            "digests": {
                **_write_texts(layout, texts, split_of),
                **{split: _write_rows(layout, split, rows[split], tuples) for split in rows},
            },
            "table": {
                split: _counts(of_split, texts, tuples.labels) for split, of_split in rows.items()
            },
        },
    )


def _write_texts(
    layout: DatasetLayout, texts: Texts, split_of: Mapping[str, str]
) -> dict[str, str]:
    """Writes the table of every side, and returns a digest of each."""
    for side, of_side in texts.items():
        columns = {f"{side}_id": list(of_side), "text": list(of_side.values())}
        if side == "query":
            columns["split"] = [
                split_of.get(plain_text(text), "unlabelled") for text in of_side.values()
            ]
        write_table(pa.table(columns), layout.texts(side))
    return {side: _digest(of_side, of_side.values()) for side, of_side in texts.items()}


def _write_rows(layout: DatasetLayout, split: str, rows: Sequence[Ids], tuples: _Tuples) -> str:
    """Writes the tuples of a split or of the transfer set, and returns a digest of them."""
    columns: dict[str, Any] = dict(
        zip(id_columns(list(tuples.texts)), map(list, zip(*rows, strict=True)), strict=True)
    )
    if split == "transfer":
        labels = [0.0] * len(rows)
        columns["rank"] = pa.nulls(len(rows), pa.int32())
    else:
        labels = [tuples.labels[ids] for ids in rows]
        columns["label"] = pa.array(labels, pa.float32())
    columns["score"] = pa.nulls(len(rows), pa.float32())
    path = layout.transfer if split == "transfer" else layout.pairs(split)
    write_table(pa.table(columns), path)
    return _digest(map("\t".join, rows), map(repr, labels))


class _Tuples:
    """What was read: texts by id, labels by tuple, in the order of their first rows."""

    def __init__(self, columns: Columns, duplicates: str) -> None:
        self._columns = columns
        self._duplicates = duplicates
        self.texts: Texts = {side: {} for side in columns.sides}
        self._ids: dict[str, dict[str, str]] = {side: {} for side in columns.sides}
        self.labels: dict[Ids, float] = {}
        self._read: dict[Ids, tuple[int, int]] = {}  # rows of a labelled tuple, and its first line
        self.unlabelled: dict[Ids, None] = {}
        self.given_splits: dict[str, str] = {}
        self._split_line: dict[str, int] = {}
        self.rows = self.repeated = self.held_out = 0

    def add(self, row: TupleRow, name: str) -> None:
        """Takes in one row of the file `name`."""
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
        if ids not in self.labels:
            self.labels[ids], self._read[ids] = row.label, (1, row.line)
            return
        self.repeated += 1
        (count, line), label = self._read[ids], self.labels[ids]
        if self._duplicates == "mean":
            self.labels[ids] = (label * count + row.label) / (count + 1)
            self._read[ids] = (count + 1, line)
        elif label != row.label:
            raise FormatError(
                f"line {row.line} of {name}, column {self._columns.label}: the same tuple has the "
                f"label {row.fields[self._columns.label or '']} here and another on line {line}: "
                "keep one, or pass --duplicates mean"
            )

    def query_of(self, ids: Ids) -> str:
        """What splits go by: queries that differ in case and spaces only are one."""
        return plain_text(self.texts["query"][ids[0]])

    def split_of_query(self, settings: SplitSettings) -> dict[str, str]:
        """Draws the queries of valid and test."""
        queries = list(dict.fromkeys(map(self.query_of, self.labels)))
        if len(queries) < len(SPLITS):
            raise FormatError(
                f"{len(queries)} labelled queries are too few to split: expected {len(SPLITS)}, "
                "since no query may be in two splits"
            )
        order = np.random.default_rng(settings.seed).permutation(len(queries))
        valid = max(1, int(len(queries) * settings.valid_share))
        test = max(1, int(len(queries) * settings.test_share))
        splits = dict.fromkeys(queries, "train")
        splits |= {queries[place]: "valid" for place in order[:valid]}
        splits |= {queries[place]: "test" for place in order[valid : valid + test]}
        return splits

    def texts_of(self, tuples: Sequence[Ids]) -> Texts:
        """The texts that some tuples consist of, by side and id, in the order of reading."""
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
                name = known[text] = hashlib.sha256(text.encode()).hexdigest()[:16]
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


def _check_splits(rows: dict[str, list[Ids]], tuples: _Tuples, name: str) -> None:
    """Raises where a split is empty or holds one label only."""
    for split, of_split in rows.items():
        if not of_split:
            raise FormatError(
                f"no labelled row of {name} is in {split}: give some queries to it, or leave split "
                "out of --columns"
            )
        labels = {tuples.labels[ids] for ids in of_split}
        if len(labels) == 1:
            raise FormatError(
                f"all {len(of_split):,} labels of {split} are {labels.pop():g}, so there is "
                "nothing to tell apart: add tuples with other labels, raise its share, or draw "
                "with another --seed"
            )


def _counts(rows: Sequence[Ids], texts: Texts, labels: Mapping[Ids, float]) -> dict[str, Any]:
    """Counts tuples and queries; means of the labels there are, and of different texts' words."""
    known = [labels[ids] for ids in rows if ids in labels]
    counts: dict[str, Any] = {
        "pairs": len(rows),
        "queries": len({ids[0] for ids in rows}),
        "labelled": len(known),
        "mean_label": round(float(np.mean(known)), 4),
    }
    for place, (side, of_side) in enumerate(texts.items()):
        words = [len(of_side[name].split()) for name in {ids[place] for ids in rows}]
        counts[f"mean_{side}_words"] = round(float(np.mean(words)), 2)
    return counts


def _digest(ids: Iterable[str], texts: Iterable[str]) -> str:
    digest = TextsDigest()
    digest.update(ids, texts)
    return digest.hexdigest()
