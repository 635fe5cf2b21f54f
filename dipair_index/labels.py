"""Soft labels: a teacher's logits for the transfer set, in shards that survive an interruption."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dipair_index.errors import FormatError, IndexDirectoryError, SettingsError
from dipair_index.tables import read_table, write_table
from dipair_index.teacher import Teacher


@dataclass(frozen=True)
class LabelSettings:
    """Which pairs are labelled, and by whom: one label folder holds one such set."""

    teacher: str
    teacher_fingerprint: str
    per_query: int
    shard_size: int
    seed: int


def pairs_to_label(dataset: Path, *, per_query: int, seed: int) -> pa.Table:
    """Returns `query_id, passage_id` of every pair worth a label, in the order of labelling.

    The queries of the transfer set come in a random order, each with its judged positives and
    `per_query` of its retrieved passages, so that any prefix is a fair sample of whole groups.
    """
    if per_query < 1:
        raise SettingsError(f"--per-query must be 1 or more, got {per_query}")
    transfer = read_table(dataset / "transfer.parquet", columns=["query_id", "passage_id"])
    train = read_table(dataset / "train.parquet", columns=["query_id", "passage_id", "label"])
    positives: dict[str, list[str]] = {}
    for row in train.to_pylist():
        if row["label"] > 0:
            positives.setdefault(row["query_id"], []).append(row["passage_id"])
    retrieved: dict[str, list[str]] = {}
    columns = (transfer["query_id"].to_pylist(), transfer["passage_id"].to_pylist())
    for query_id, passage_id in zip(*columns, strict=True):
        retrieved.setdefault(query_id, []).append(passage_id)
    if not retrieved:
        raise FormatError(f"{dataset / 'transfer.parquet'} holds no pairs: run make-dataset again")
    random = np.random.default_rng(seed)
    query_ids: list[str] = []
    passage_ids: list[str] = []
    names = sorted(retrieved)
    for position in random.permutation(len(names)):
        name = names[position]
        known = positives.get(name, [])
        others = [passage_id for passage_id in retrieved[name] if passage_id not in known]
        chosen = random.permutation(len(others))[:per_query]
        group = known + [others[place] for place in chosen]
        query_ids += [name] * len(group)
        passage_ids += group
    return pa.table({"query_id": query_ids, "passage_id": passage_ids})


def label_pairs(
    dataset: Path,
    target: Path,
    teacher: Teacher,
    *,
    per_query: int,
    shard_size: int,
    seed: int,
    limit: int | None = None,
) -> Iterator[tuple[int, int]]:
    """Writes `part-NNNNN.parquet` shards of `query_id, passage_id, logit` into `target`.

    Yields (pairs done, pairs asked for) after each shard. Shards that are there already are
    kept, so that a second call goes on where the first was interrupted, and a larger `limit`
    adds to what is there. Raises `IndexDirectoryError` when `target` holds other labels.
    """
    settings = LabelSettings(
        Path(teacher.name).name, teacher.fingerprint, per_query, shard_size, seed
    )
    target.mkdir(parents=True, exist_ok=True)
    note = target / "labels.json"
    if note.is_file():
        there = json.loads(note.read_text(encoding="utf-8"))
        if there != asdict(settings):
            raise IndexDirectoryError(
                f"{target} holds labels made with other settings ({there}): pass the same ones to "
                "go on, or another --labels folder to begin anew"
            )
    note.write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")
    pairs = pairs_to_label(dataset, per_query=per_query, seed=seed)
    total = min(limit or pairs.num_rows, pairs.num_rows)
    queries = read_texts(dataset / "queries.parquet", "query_id")
    passages = read_texts(dataset / "passages.parquet", "passage_id")
    for number, start in enumerate(range(0, total, shard_size)):
        shard = target / f"part-{number:05d}.parquet"
        # a shard is whole, whatever the limit, so that a larger limit can go on
        part = pairs.slice(start, shard_size)
        if not shard.is_file():
            logits = teacher.logits(
                [queries[name] for name in part["query_id"].to_pylist()],
                [passages[name] for name in part["passage_id"].to_pylist()],
            )
            if not np.isfinite(logits).all():
                raise FormatError(f"{teacher.name} gave a logit that is not a number: {shard}")
            write_table(part.append_column("logit", pa.array(logits)), shard)
        yield min(start + part.num_rows, total), total


def read_texts(file: Path, id_column: str) -> dict[str, str]:
    """Returns the text by id of a dataset's queries or passages."""
    table = read_table(file, columns=[id_column, "text"])
    return dict(zip(table[id_column].to_pylist(), table["text"].to_pylist(), strict=True))


def read_labels(folder: Path) -> pa.Table:
    """Returns `query_id, passage_id, logit` of all shards, in their order.

    Raises `FormatError` when there are none, or one fails its checksum.
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
