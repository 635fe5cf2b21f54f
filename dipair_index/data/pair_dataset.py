"""A dataset of labelled pairs or n-ary tuples, such as P2T-REL (DiPair, sections 3.8 and 4.1).

Nothing is mined: train, valid and test hold the labelled tuples, split by query, and the transfer
set holds the tuples of train and the unlabelled ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dipair_index.data.collected_tuples import CollectedTuples, Ids, Judgement, SplitSettings, Texts
from dipair_index.data.dataset import id_columns
from dipair_index.data.directory import write_record
from dipair_index.data.equal_texts import plain_text
from dipair_index.data.layout import DatasetLayout
from dipair_index.digests import TextsDigest
from dipair_index.errors import FormatError, SettingsError
from dipair_index.formats.lines import source_name
from dipair_index.formats.tables import write_table
from dipair_index.formats.tuples import Columns, read_tuples
from dipair_index.progress import Progress
from dipair_index.records import HELD_OUT, SPLITS
from dipair_index.words import counted


def build_pair_dataset(
    source: str | Path,
    columns: Columns,
    layout: DatasetLayout,
    settings: SplitSettings,
    *,
    progress: Progress,
    transfer: str | Path | None = None,
) -> dict[str, Any]:
    """Writes a dataset from a file of tuples, and returns the contents of its `dataset.json`.

    `transfer` is a file of unlabelled tuples; labels in it are ignored. The same input, settings
    and seed give the same bytes in every file. Raises `FormatError` as `read_tuples` does, and if
    a split would be empty or have one label only; `SettingsError` if `columns` names no label, or
    a side that no model can have.
    """
    if columns.label is None:
        raise SettingsError("--columns names no label: add label=COLUMN")
    if further := columns.sides[2:]:
        from dipair_index.models.config import check_side_name

        for side in further:
            check_side_name(side)
    name = source_name(source)
    tuples = CollectedTuples(columns, settings.duplicates)
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
    """Writes the table of every side; returns a digest of each."""
    for side, of_side in texts.items():
        columns = {f"{side}_id": list(of_side), "text": list(of_side.values())}
        if side == "query":
            columns["split"] = [
                split_of.get(plain_text(text), "unlabelled") for text in of_side.values()
            ]
        write_table(pa.table(columns), layout.texts(side))
    return {side: _digest(of_side, of_side.values()) for side, of_side in texts.items()}


def _write_rows(
    layout: DatasetLayout, split: str, rows: Sequence[Ids], tuples: CollectedTuples
) -> str:
    """Writes the tuples of a split or of the transfer set; returns their digest."""
    columns: dict[str, Any] = dict(
        zip(id_columns(list(tuples.texts)), map(list, zip(*rows, strict=True)), strict=True)
    )
    if split == "transfer":
        labels = [0.0] * len(rows)
        columns["rank"] = pa.nulls(len(rows), pa.int32())
    else:
        labels = [tuples.labels[ids].label for ids in rows]
        columns["label"] = pa.array(labels, pa.float32())
    columns["score"] = pa.nulls(len(rows), pa.float32())
    path = layout.transfer if split == "transfer" else layout.pairs(split)
    write_table(pa.table(columns), path)
    return _digest(map("\t".join, rows), map(repr, labels))


def _check_splits(rows: dict[str, list[Ids]], tuples: CollectedTuples, name: str) -> None:
    """Raises `FormatError` if a split is empty or has one label only."""
    for split, of_split in rows.items():
        if not of_split:
            raise FormatError(
                f"no labelled row of {name} is in {split}: give some queries to it, or leave split "
                "out of --columns"
            )
        labels = {tuples.labels[ids].label for ids in of_split}
        if len(labels) == 1:
            raise FormatError(
                f"{split} has {counted(len(of_split), 'label')}, "
                f"{'all' if len(of_split) > 1 else 'which is'} {labels.pop():g}, and two different "
                "labels are needed: add tuples with other labels, raise the share of "
                f"{split}, or pass another --seed"
            )


def _counts(rows: Sequence[Ids], texts: Texts, labels: Mapping[Ids, Judgement]) -> dict[str, Any]:
    """Counts the tuples and queries, and averages the labels and the words of distinct texts."""
    known = [labels[ids].label for ids in rows if ids in labels]
    counts: dict[str, Any] = {
        "pairs": len(rows),
        "queries": len({ids[0] for ids in rows}),
        "labelled": len(known),
        "mean_label": round(float(np.mean(known)), 4),
    }
    for index, (side, of_side) in enumerate(texts.items()):
        words = [len(of_side[name].split()) for name in {ids[index] for ids in rows}]
        counts[f"mean_{side}_words"] = round(float(np.mean(words)), 2)
    return counts


def _digest(ids: Iterable[str], texts: Iterable[str]) -> str:
    digest = TextsDigest()
    digest.update(ids, texts)
    return digest.hexdigest()
