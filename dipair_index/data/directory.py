"""How a new dataset is begun beside its place, and moved there when it is whole."""

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
KEPT = ("query_vectors", "neighbours", "positive_scores")
"""What another run over the same texts takes over."""


def write_record(layout: DatasetLayout, record: Mapping[str, Any]) -> dict[str, Any]:
    """Writes `dataset.json`, and returns what it says: `record` and its fingerprint.

    The record is to hold digests of all that went into the dataset.
    """
    said = json.dumps(record, sort_keys=True).encode()
    whole = {**record, "fingerprint": short_digest(said)}
    with writing(layout.record) as target:
        target.write(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    return whole


def check_target(out: Path, *, overwrite: bool) -> None:
    """Raises `DirectoryError` where something is in the way of a new dataset at `out`."""
    old = sibling(out, REPLACED)
    if not out.exists() and (old / "dataset.json").is_file():
        os.replace(old, out)  # a run was stopped just before it put the new one there
    if out.exists() or out.is_symlink():
        if not overwrite:
            raise DirectoryError(f"{out} exists: pass --overwrite to replace it, or another --out")
        Dataset.open(out)
    building = sibling(out, ".building")
    if building.exists():
        inside = {path.name for path in building.iterdir()} if building.is_dir() else {"a file"}
        foreign = {name.removesuffix(".tmp") for name in inside} - NAMES
        if "queries.parquet" in inside:  # the sides of tuples go by names of their own
            foreign = {name for name in foreign if not name.endswith(".parquet")}
        if foreign:
            raise DirectoryError(
                f"{building} holds {min(foreign)}, which is no part of a dataset: move it away"
            )


def begin(out: Path, *, overwrite: bool, anew: bool = False) -> DatasetLayout:
    """Returns the folder beside `out` in which to build, with what can be taken over from `out`.

    What an interrupted run has left there stays, save for tables, and save for all of it where
    `anew` says that nothing is to be taken over. Raises as `check_target` does.
    """
    check_target(out, overwrite=overwrite)
    building = DatasetLayout(sibling(out, ".building"))
    try:
        if anew:
            shutil.rmtree(building.folder, ignore_errors=True)
        building.folder.mkdir(parents=True, exist_ok=True)
        for table in building.folder.glob("*.parquet"):
            table.unlink()
        for name in KEPT if out.exists() and not anew else ():
            if not building.kept(name).exists():
                for suffix in (".npy", ".json"):
                    link(out / f"{name}{suffix}", building.folder / f"{name}{suffix}")
    except OSError as error:
        raise unwritable(building.folder, error) from error
    return building


def finish(building: DatasetLayout, out: Path) -> None:
    """Moves a whole dataset to `out`, with the labels of the one that was there.

    Raises `DirectoryError` when those labels are of other pairs or of other texts; nothing is
    moved then.
    """
    previous = DatasetLayout(out)
    if previous.labels.exists() and not building.labels.exists():
        if not _same_pairs_to_label(previous, building):
            raise DirectoryError(
                f"{previous.labels} holds a teacher's labels of other pairs or texts than the new "
                "ones: move or delete that folder, then run this again (nothing is computed twice)"
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
    """Has labels that were taken over name the new dataset as theirs."""
    file = building.labels / "labels.json"
    note = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if "dataset" in note:
        note["dataset"] = Dataset.open(building.folder).fingerprint
        with writing(file) as target:
            target.write(json.dumps(note, indent=2) + "\n")
