"""An opened dataset: its record, its texts and its tuples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dipair_index.data.layout import DatasetLayout
from dipair_index.errors import DirectoryError, FormatError
from dipair_index.evaluation.bootstrap import JudgedPairs
from dipair_index.evaluation.measures import Values
from dipair_index.formats.tables import read_table
from dipair_index.records import HELD_OUT, PAIR

MINER = "miner"
"""The name, in evaluations, of the retriever whose scores chose the negatives."""
MAKE_AGAIN = "run `dipair-index make-dataset` again"


@dataclass(frozen=True)
class JudgedTuples:
    """The judged pairs or tuples of a split.

    `ids` and `texts` are lists by side, "query" first; they, `labels` and `miner_scores` have one
    entry per tuple. `miner_scores` is None if the tuples were not mined.
    """

    ids: Mapping[str, list[str]]
    texts: Mapping[str, list[str]]
    labels: Values
    miner_scores: Values | None

    def as_pairs(self) -> JudgedPairs:
        """Returns the tuples for an evaluation, with the scores of the `MINER` if there are any.

        The ids of a tuple's other sides, joined by tabs, become its `passage_ids`.
        """
        queries, *others = self.ids.values()
        return JudgedPairs(
            queries,
            ["\t".join(ids) for ids in zip(*others, strict=True)],
            self.labels,
            {} if self.miner_scores is None else {MINER: self.miner_scores},
        )


class Dataset:
    """A dataset directory, opened for reading.

    The texts of a side are read at first use and cached; tables are read again at each call, since
    they may be large.

    Attributes
    ----------
    layout : DatasetLayout
        The paths of the dataset's files.
    record : mapping
        The contents of `dataset.json`: parameters, counts and digests.
    sides : tuple of str
        The sides of its tuples: "query", "passage" and any further ones.
    """

    def __init__(self, layout: DatasetLayout, record: Mapping[str, Any]) -> None:
        self.layout = layout
        self.record = record
        self.sides = tuple(record.get("sides", PAIR))
        self._texts: dict[str, dict[str, str]] = {}

    @classmethod
    def open(cls, folder: str | Path) -> Dataset:
        """Opens the dataset in `folder`.

        Raises `DirectoryError` if there is none, or if its `dataset.json` is damaged.
        """
        layout = DatasetLayout(Path(folder))
        try:
            record = json.loads(layout.record.read_text(encoding="utf-8"))
        except OSError as error:
            raise DirectoryError(
                f"{folder} is not a dataset (it has no dataset.json): name one that "
                "`dipair-index make-dataset` has written"
            ) from error
        except ValueError as error:
            raise DirectoryError(f"{layout.record} is damaged ({error}): {MAKE_AGAIN}") from error
        if not isinstance(record, dict):
            raise DirectoryError(f"{layout.record} is damaged: {MAKE_AGAIN}")
        return cls(layout, record)

    @property
    def folder(self) -> Path:
        """The directory."""
        return self.layout.folder

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the dataset's contents; empty in the oldest datasets."""
        if "fingerprint" in self.record:
            return str(self.record["fingerprint"])
        # datasets made before they had one
        return str(self.record.get("embedder", {}).get("passages_digest", ""))

    @property
    def id_columns(self) -> list[str]:
        """The names of the id columns, one per side."""
        return id_columns(self.sides)

    @cached_property
    def held_out_queries(self) -> frozenset[str]:
        """The ids of the queries of valid and test, for which no label may be used in training."""
        queries = read_table(self.layout.queries)
        if "split" not in queries.column_names:
            return frozenset()
        columns = (queries[name].to_pylist() for name in ("query_id", "split"))
        return frozenset(name for name, split in zip(*columns, strict=True) if split in HELD_OUT)

    def texts(self, side: str) -> Mapping[str, str]:
        """Returns the texts of a side by id."""
        if side not in self._texts:
            table = read_table(self.layout.texts(side), columns=[f"{side}_id", "text"])
            ids, texts = (table[name].to_pylist() for name in (f"{side}_id", "text"))
            self._texts[side] = dict(zip(ids, texts, strict=True))
        return self._texts[side]

    def ids(self, side: str) -> set[str]:
        """Returns the ids of a side, without reading its texts."""
        column = f"{side}_id"
        return set(read_table(self.layout.texts(side), [column])[column].to_pylist())

    def texts_of(self, side: str, ids: Sequence[str], named_by: Path) -> list[str]:
        """Returns the texts of some ids of a side.

        Raises `FormatError` if an id has no text; the message names the file `named_by`, in which
        the ids are.
        """
        texts = self.texts(side)
        missing = next((name for name in ids if name not in texts), None)
        if missing is not None:
            raise FormatError(
                f"{named_by} names {side} {missing}, and the dataset has no such {side}: "
                f"{MAKE_AGAIN}"
            )
        return [texts[name] for name in ids]

    def pairs(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Returns the table of "train", "valid" or "test": ids, `label` and further columns."""
        return read_table(self.layout.pairs(split), columns)

    def judged(self, split: str) -> JudgedTuples:
        """Returns the tuples of a split with their texts.

        Raises `FormatError` if there are none, for an id without a text, and for a label that is
        not a finite number.
        """
        table = self.pairs(split)
        if not table.num_rows:
            raise FormatError(f"the {split} split of {self.folder} is empty: name another --split")
        return self._with_texts(table, self.layout.pairs(split))

    def held_out(self) -> dict[str, JudgedTuples]:
        """Returns the tuples of valid and test by split, without missing or empty splits.

        Raises `FormatError` as `judged` does.
        """
        return {
            split: self._with_texts(table, self.layout.pairs(split))
            for split in HELD_OUT
            if self.layout.pairs(split).is_file() and (table := self.pairs(split)).num_rows
        }

    def _with_texts(self, table: pa.Table, file: Path) -> JudgedTuples:
        needed = [*self.id_columns, "label"]
        if missing := [name for name in needed if name not in table.column_names]:
            raise FormatError(f"{file} has no column {missing[0]}: {MAKE_AGAIN}")
        labels = table["label"].to_numpy()
        if not np.isfinite(labels.astype(np.float64)).all():
            raise FormatError(f"{file} holds a label that is not a finite number: {MAKE_AGAIN}")
        ids = {side: table[f"{side}_id"].to_pylist() for side in self.sides}
        mined = "score" in table.column_names and not table["score"].null_count
        return JudgedTuples(
            ids=ids,
            texts={side: self.texts_of(side, of_side, file) for side, of_side in ids.items()},
            labels=labels,
            miner_scores=table["score"].to_numpy() if mined else None,
        )


def id_columns(sides: Sequence[str]) -> list[str]:
    """Returns the names of the id columns of these sides, such as "query_id"."""
    return [f"{side}_id" for side in sides]
