"""Soft labels: a teacher's logits for the transfer set, in shards that survive an interruption."""

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
    """Which pairs are labelled, and by whom: one label folder holds one such set."""

    teacher: str
    teacher_fingerprint: str
    per_query: int | None
    shard_size: int
    seed: int
    dataset: str
    """Its fingerprint."""


def pairs_to_label(dataset: Dataset, *, per_query: int | None, seed: int) -> pa.Table:
    """Returns the ids (`query_id, passage_id`, further sides) of all that is worth a label.

    The queries of the transfer set come in a random order, each with its judged positives and
    `per_query` of its other tuples there (all with None), so that any prefix is a fair sample of
    whole groups.
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
        raise FormatError(f"{dataset.layout.transfer} holds no pairs: run make-dataset again")
    random = np.random.default_rng(seed)
    chosen: list[tuple[str, ...]] = []
    names = sorted(retrieved)
    for position in random.permutation(len(names)):
        name = names[position]
        known = positives.get(name, {})
        others = [ids for ids in retrieved[name] if ids not in known]
        places = random.permutation(len(others))[:per_query]
        chosen += [*known, *(others[place] for place in places)]
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

    Yields (pairs done, pairs asked for) after each shard. Shards that are there already are
    kept, so that a second call goes on where the first was interrupted, and a larger `limit`
    adds to what is there. `sides` is the order in which the teacher reads them, with None the
    dataset's. Raises `DirectoryError` when `target` holds other labels.
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

    def logits_of(part: pa.Table, start: int) -> FloatArray:
        return teacher.logits(
            *(
                dataset.texts_of(side, part[f"{side}_id"].to_pylist(), dataset.layout.transfer)
                for side in sides or dataset.sides
            )
        )

    total = min(limit or pairs.num_rows, pairs.num_rows)
    yield from write_shards(target, settings, pairs, total, logits_of)


def claim(target: Path, settings: LabelSettings) -> None:
    """Notes in `target` whose labels it holds; `DirectoryError` where it holds others."""
    target.mkdir(parents=True, exist_ok=True)
    note = target / "labels.json"
    # a run that ended before its first shard has labelled nothing
    if note.is_file() and any(target.glob("part-*.parquet")):
        there = json.loads(note.read_text(encoding="utf-8"))
        # older notes do not name their dataset
        if {"dataset": settings.dataset, **there} != asdict(settings):
            raise DirectoryError(
                f"{target} holds labels made with other settings or of another dataset ({there}): "
                "pass the same ones to go on, or another --labels folder to begin anew"
            )
    write_whole(note, f"{json.dumps(asdict(settings), indent=2)}\n".encode())


def write_shards(
    target: Path,
    settings: LabelSettings,
    pairs: pa.Table,
    total: int,
    logits_of: Callable[[pa.Table, int], FloatArray],
) -> Iterator[tuple[int, int]]:
    """Writes the first `total` pairs with their logits, as `label_pairs` says.

    `logits_of` gives (rows,) or (rows, outputs) for a part of the pairs and the place of its first.
    """
    for number, start in enumerate(range(0, total, settings.shard_size)):
        shard = target / f"part-{number:05d}.parquet"
        # a shard is whole, whatever the limit, so that a larger limit can go on
        part = pairs.slice(start, settings.shard_size)
        if not shard.is_file():
            logits = logits_of(part, start)
            if not np.isfinite(logits).all():
                raise FormatError(f"{settings.teacher} gave a logit that is not a number: {shard}")
            write_table(part.append_column("logit", _column(logits)), shard)
        yield min(start + part.num_rows, total), total


def read_labels(folder: Path) -> pa.Table:
    """Returns the ids and `logit` of all shards, in their order.

    A logit is a float32, or a list of them where the teacher has several outputs. Raises
    `FormatError` when there are none, or one fails its checksum.
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
