"""Writes a new dataset into a temporary folder, and moves it to its path when it is complete."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dipair_index.data.dataset import Dataset
from dipair_index.data.layout import DatasetLayout
from dipair_index.digests import short_digest
from dipair_index.errors import DirectoryError
from dipair_index.files import REPLACED, link, move_into_place, sibling, unwritable
from dipair_index.formats.lines import writing

NAMES = {
    "dataset.json", "queries.parquet", "passages.parquet", "train.parquet", "valid.parquet",
    "test.parquet", "transfer.parquet", "ann", "labels", "query_vectors.npy",
    "query_vectors.json", "neighbours.npy", "neighbours.json", "positive_scores.npy",
    "positive_scores.json", "passage_vectors.npy", "passage_vectors.json",
}  # fmt: skip
REUSED = ("query_vectors", "neighbours", "positive_scores")
"""The cached arrays that a later run over the same texts reuses."""


def write_record(layout: DatasetLayout, record: Mapping[str, Any]) -> dict[str, Any]:
    """Writes `dataset.json`, and returns its contents: `record` and the fingerprint of the dataset.

    The fingerprint is a digest of the record, so the record must contain digests of all inputs.
    """
    payload = json.dumps(record, sort_keys=True).encode()
    whole = {**record, "fingerprint": short_digest(payload)}
    with writing(layout.record) as target:
        target.write(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    return whole


def check_target(out: Path, *, overwrite: bool) -> None:
    """Checks that a dataset can be written to `out`.

    Raises `DirectoryError` if `out` exists and `overwrite` is false, if it is not a dataset, or if
    the temporary folder beside it contains files that are not a dataset's.
    """
    old = sibling(out, REPLACED)
    if not out.exists() and (old / "dataset.json").is_file():
        os.replace(old, out)  # an earlier run was stopped just before it moved the new dataset here
    if out.exists() or out.is_symlink():
        if not overwrite:
            raise DirectoryError(f"{out} exists: pass --overwrite to replace it, or another --out")
        Dataset.open(out)
    building = sibling(out, ".building")
    if building.exists():
        inside = {path.name for path in building.iterdir()} if building.is_dir() else {"a file"}
        foreign = {name.removesuffix(".tmp") for name in inside} - NAMES
        if "queries.parquet" in inside:  # further sides have tables by their own names
            foreign = {name for name in foreign if not name.endswith(".parquet")}
        if foreign:
            raise DirectoryError(
                f"{building} holds {min(foreign)}, which does not belong to a dataset: move it away"
            )


def begin(out: Path, *, overwrite: bool, anew: bool = False) -> DatasetLayout:
    """Makes the temporary folder beside `out`, with the cached arrays of the dataset at `out`.

    Arrays that an interrupted run left there are kept, its tables are not. With `anew`, nothing is
    reused. Raises `DirectoryError` as `check_target` does, and `WriteError` if the folder cannot
    be written.
    """
    check_target(out, overwrite=overwrite)
    building = DatasetLayout(sibling(out, ".building"))
    try:
        if anew:
            shutil.rmtree(building.folder, ignore_errors=True)
        building.folder.mkdir(parents=True, exist_ok=True)
        for table in building.folder.glob("*.parquet"):
            table.unlink()
        for name in REUSED if out.exists() and not anew else ():
            if not building.cached(name).exists():
                for suffix in (".npy", ".json"):
                    link(out / f"{name}{suffix}", building.folder / f"{name}{suffix}")
    except OSError as error:
        raise unwritable(building.folder, error) from error
    return building


def finish(building: DatasetLayout, out: Path) -> None:
    """Moves a complete dataset to `out`, along with the labels of the dataset that it replaces.

    Raises `DirectoryError`, and moves nothing, if those labels belong to other pairs or texts.
    """
    previous = DatasetLayout(out)
    if previous.labels.exists() and not building.labels.exists():
        if not _same_pairs_to_label(previous, building):
            raise DirectoryError(
                f"{previous.labels} holds a teacher's labels of other pairs or texts than the new "
                "dataset has: move or delete that folder, then run this again (nothing is computed "
                "twice)"
            )
        shutil.copytree(previous.labels, building.labels, copy_function=link)
        _rename_dataset(building)
    move_into_place(building.folder, out)


def _same_pairs_to_label(old: DatasetLayout, new: DatasetLayout) -> bool:
    from dipair_index.formats.tables import read_table

    def positives(layout: DatasetLayout) -> list[Any]:
        pairs = read_table(layout.pairs("train"))
        scoreless = pairs.drop_columns([name for name in ("score",) if name in pairs.column_names])
        return [pair for pair in scoreless.to_pylist() if pair["label"] > 0]

    def same_texts(side: str) -> bool:
        columns = [f"{side}_id", "text"]
        before, after = (read_table(layout.texts(side), columns) for layout in (old, new))
        return bool(before.equals(after))

    return (
        filecmp.cmp(old.transfer, new.transfer, shallow=False)
        and positives(old) == positives(new)
        and all(map(same_texts, Dataset.open(new.folder).sides))
    )


def _rename_dataset(building: DatasetLayout) -> None:
    """Writes the new dataset's fingerprint into the labels that are reused."""
    file = building.labels / "labels.json"
    note = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if "dataset" in note:
        note["dataset"] = Dataset.open(building.folder).fingerprint
        with writing(file) as target:
            target.write(json.dumps(note, indent=2) + "\n")
