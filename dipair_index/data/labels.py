"""Soft labels: a teacher's logits for the transfer set, in shards, so that labelling can resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from dipair_index.data.dataset import Dataset
from dipair_index.errors import DirectoryError, FormatError, SettingsError
from dipair_index.files import write_whole
from dipair_index.formats.tables import read_table, write_table
from dipair_index.records import FloatArray

if TYPE_CHECKING:
    from dipair_index.encoders.cross_encoders import Teacher


@dataclass(frozen=True)
class LabelSettings:
    """Which pairs are labelled, and by which teacher; all labels of a folder share one."""

    teacher: str
    teacher_fingerprint: str
    per_query: int | None
    shard_size: int
    seed: int
    dataset: str
    """The fingerprint of the dataset."""


def pairs_to_label(dataset: Dataset, *, per_query: int | None, seed: int) -> pa.Table:
    """Returns the ids (`query_id, passage_id`, further sides) of the tuples to label.

    The queries of the transfer set are in random order, each with its judged positives and
    `per_query` of its other tuples (None is all of them), so any prefix is a random sample of
    whole groups. Raises `SettingsError` if `per_query` is below 1, and `FormatError` if the
    transfer set is empty.
    """
    if per_query is not None and per_query < 1:
        raise SettingsError(f"--per-query must be 1 or more, got {per_query}")
    columns = dataset.id_columns
    train = dataset.pairs("train", [*columns, "label"])
    positives: dict[str, dict[tuple[str, ...], None]] = {}
    for row in train.to_pylist():
        if row["label"] > 0:
            ids = tuple(row[name] for name in columns)
            positives.setdefault(ids[0], {})[ids] = None
    transfer = read_table(dataset.layout.transfer, columns)
    retrieved: dict[str, list[tuple[str, ...]]] = {}
    for ids in zip(*(transfer[name].to_pylist() for name in columns), strict=True):
        retrieved.setdefault(ids[0], []).append(ids)
    if not retrieved:
        raise FormatError(
            f"{dataset.layout.transfer} holds no pairs: run `dipair-index make-dataset` again"
        )
    random = np.random.default_rng(seed)
    chosen: list[tuple[str, ...]] = []
    names = sorted(retrieved)
    for position in random.permutation(len(names)):
        name = names[position]
        known = positives.get(name, {})
        others = [ids for ids in retrieved[name] if ids not in known]
        drawn = random.permutation(len(others))[:per_query]
        chosen += [*known, *(others[index] for index in drawn)]
    return pa.table(dict(zip(columns, map(list, zip(*chosen, strict=True)), strict=True)))


def label_pairs(
    dataset: Dataset,
    target: Path,
    teacher: Teacher,
    *,
    per_query: int | None,
    shard_size: int,
    seed: int,
    limit: int | None = None,
    sides: tuple[str, ...] | None = None,
) -> Iterator[tuple[int, int]]:
    """Writes `part-NNNNN.parquet` shards of ids and `logit` into `target`.

    Yields (pairs done, pairs in all) after each shard. Shards that exist are kept, so a second
    call resumes an interrupted one, and a larger `limit` adds shards. `sides` is the order in
    which the teacher reads the sides, by default that of the dataset. Raises `DirectoryError` if
    `target` holds other labels, and `FormatError` if a logit is not finite.
    """
    settings = LabelSettings(
        Path(teacher.name).name,
        teacher.fingerprint,
        per_query,
        shard_size,
        seed,
        dataset.fingerprint,
    )
    claim(target, settings)
    pairs = pairs_to_label(dataset, per_query=per_query, seed=seed)

    def logits_of(shard: pa.Table, start: int) -> FloatArray:
        return teacher.logits(
            *(
                dataset.texts_of(side, shard[f"{side}_id"].to_pylist(), dataset.layout.transfer)
                for side in sides or dataset.sides
            )
        )

    total = min(limit or pairs.num_rows, pairs.num_rows)
    yield from write_shards(target, settings, pairs, total, logits_of)


def claim(target: Path, settings: LabelSettings) -> None:
    """Writes the settings of the labels into the folder `target`.

    Raises `DirectoryError` if it holds labels with other settings.
    """
    target.mkdir(parents=True, exist_ok=True)
    note = target / "labels.json"
    # a run that ended before its first shard has labelled nothing
    if note.is_file() and any(target.glob("part-*.parquet")):
        there = json.loads(note.read_text(encoding="utf-8"))
        # older notes do not name their dataset
        if {"dataset": settings.dataset, **there} != asdict(settings):
            raise DirectoryError(
                f"{target} holds labels made with other settings or of another dataset ({there}): "
                "pass the same settings to resume, or another --labels folder to start over"
            )
    write_whole(note, f"{json.dumps(asdict(settings), indent=2)}\n".encode())


def write_shards(
    target: Path,
    settings: LabelSettings,
    pairs: pa.Table,
    total: int,
    logits_of: Callable[[pa.Table, int], FloatArray],
) -> Iterator[tuple[int, int]]:
    """Writes the first `total` pairs with their logits, as `label_pairs` does.

    `logits_of` takes a shard's pairs and the index of the first, and returns logits (rows,) or
    (rows, outputs).
    """
    for number, start in enumerate(range(0, total, settings.shard_size)):
        file = target / f"part-{number:05d}.parquet"
        # a shard is always complete, so that a call with a larger limit can resume
        shard = pairs.slice(start, settings.shard_size)
        if not file.is_file():
            logits = logits_of(shard, start)
            if not np.isfinite(logits).all():
                raise FormatError(f"{settings.teacher} gave a logit that is not a number: {file}")
            write_table(shard.append_column("logit", _column(logits)), file)
        yield min(start + shard.num_rows, total), total


def read_labels(folder: Path) -> pa.Table:
    """Returns the ids and `logit` of all shards, in order.

    A logit is a float32, or a list of float32 if the teacher has several outputs. Raises
    `FormatError` if there are no shards, or if one is damaged.
    """
    shards = sorted(folder.glob("part-*.parquet"))
    if not shards:
        raise FormatError(f"{folder} holds no labels: run `dipair-index label` first")
    tables = []
    for shard in shards:
        try:
            tables.append(read_table(shard))
        except FormatError as error:
            raise FormatError(
                f"{shard} is damaged: delete it and run `dipair-index label` again ({error})"
            ) from error
    return pa.concat_tables(tables)


def _column(logits: FloatArray) -> pa.Array:
    flat = pa.array(logits.ravel(), pa.float32())
    return flat if logits.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, logits.shape[1])
