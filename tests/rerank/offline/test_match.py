"""`match_indexes`: which pairs are scored, in which order, and with which scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.records import Passage
from dipair_index.rerank.build import add_passages, build_index
from dipair_index.rerank.offline.match import match_indexes
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.snapshot import Snapshot

Rows = list[tuple[str, str, float]]
ReadRows = Callable[[Path], Rows]
TOLERANCE = 5e-6


def some_pairs(sides: Any, count: int) -> list[tuple[str, str]]:
    chance = Random(0)
    return [(chance.choice(sides.left_ids), chance.choice(sides.right_ids)) for _ in range(count)]


def write_pairs(file: Path, pairs: list[tuple[str, str]]) -> Path:
    left, right = map(list, zip(*pairs, strict=True))
    pq.write_table(pa.table({"left": left, "right": right}), file, row_group_size=11)
    return file


def check(rows: Rows, pairs: list[tuple[str, str]], sides: Any) -> None:
    assert [row[:2] for row in rows] == pairs
    expected = [sides.score(*pair) for pair in pairs]
    assert [row[2] for row in rows] == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("block_pairs", [7, 1000])
def test_pairs_of_parquet_are_scored_in_their_order_with_other_columns(
    block_pairs: int, sides: Any, rows_in: ReadRows, tmp_path: Path
) -> None:
    pairs = some_pairs(sides, 60)
    left, right = map(list, zip(*pairs, strict=True))
    table = pa.table(
        {"label": range(60), "left": pa.array(left).dictionary_encode(), "right": right}
    )
    pq.write_table(table, tmp_path / "pairs.parquet", row_group_size=11)
    summary = match_indexes(
        sides.left,
        sides.right,
        tmp_path / "out",
        pairs=tmp_path / "pairs.parquet",
        block_pairs=block_pairs,
    )
    check(rows_in(tmp_path / "out"), pairs, sides)
    assert (summary.pairs, summary.scored, summary.blocks) == (60, 60, -(-60 // block_pairs))
    written = pq.read_table(tmp_path / "out" / "scores-00000000.parquet")
    assert written.column_names == ["label", "left", "right", "score"]
    assert written["label"].to_pylist() == list(range(min(block_pairs, 60)))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["finished"]
    assert (manifest["left"]["texts"], manifest["right"]["side"]) == (13, "passage")


@pytest.mark.parametrize("block_pairs", [5, 1000])
def test_pairs_of_a_folder_of_tsv_are_scored_file_by_file(
    block_pairs: int, sides: Any, rows_in: ReadRows, tmp_path: Path
) -> None:
    pairs = some_pairs(sides, 40)
    folder = tmp_path / "pairs"
    folder.mkdir()
    for name, part in (("b.tsv", pairs[25:]), ("a.tsv", pairs[:25]), ("_ignored.tsv", pairs)):
        lines = "\n".join(f"{left}\t{right}" for left, right in part)
        (folder / name).write_text(lines if name == "b.tsv" else f"{lines}\n")
    match_indexes(sides.left, sides.right, tmp_path / "out", pairs=folder, block_pairs=block_pairs)
    check(rows_in(tmp_path / "out"), pairs, sides)


@pytest.mark.parametrize("block_pairs", [40, 10_000])
def test_all_pairs_are_scored_once(
    block_pairs: int, sides: Any, rows_in: ReadRows, tmp_path: Path
) -> None:
    match_indexes(sides.left, sides.right, tmp_path, every=True, block_pairs=block_pairs)
    pairs = [(left, right) for left in sides.left_ids for right in sides.right_ids]
    check(sorted(rows_in(tmp_path)), sorted(pairs), sides)


def best(sides: Any, top_k: int, left: str) -> list[tuple[str, str]]:
    row = sides.scores[sides.left_ids.index(left)]
    order = sorted(range(len(row)), key=lambda at: (-row[at], sides.right_ids[at]))
    return [(left, sides.right_ids[at]) for at in order[:top_k]]


@pytest.mark.parametrize("block_pairs", [30, 10_000])
def test_the_best_of_each_left_text_are_kept_best_first(
    block_pairs: int, sides: Any, rows_in: ReadRows, tmp_path: Path
) -> None:
    match_indexes(sides.left, sides.right, tmp_path, every=True, top_k=4, block_pairs=block_pairs)
    expected = [pair for left in sides.left_ids for pair in best(sides, 4, left)]
    check(rows_in(tmp_path), expected, sides)
    assert not list(tmp_path.glob("part-*"))
    assert not (tmp_path / "writer.lock").exists()


def test_a_least_score_is_in_the_unit_of_the_scores(
    sides: Any, rows_in: ReadRows, tmp_path: Path
) -> None:
    least = float(np.median(sides.scores)) + 1e-5
    match_indexes(sides.left, sides.right, tmp_path / "out", every=True, min_score=least)
    expected = [
        (left, right)
        for left, row in zip(sides.left_ids, sides.scores, strict=True)
        for right, score in zip(sides.right_ids, row, strict=True)
        if score >= least
    ]
    check(rows_in(tmp_path / "out"), expected, sides)
    logit = float(np.log(least / (1 - least)))
    match_indexes(
        sides.left, sides.right, tmp_path / "raw", every=True, min_score=logit, raw_scores=True
    )
    rows = rows_in(tmp_path / "raw")
    assert [row[:2] for row in rows] == expected
    given = [1 / (1 + np.exp(-row[2])) for row in rows]
    assert given == pytest.approx([sides.score(*pair) for pair in expected], abs=TOLERANCE)


def test_equal_texts_are_ordered_by_id(
    encoder: DualEncoder, passages: list[Passage], sides: Any, rows_in: ReadRows, tmp_path: Path
) -> None:
    equal = [Passage(name, "tea and the moon") for name in ("z", "b", "y", "a")]
    build_index([*equal, *passages], tmp_path / "right", encoder)
    match_indexes(sides.left, tmp_path / "right", tmp_path / "out", every=True, top_k=28)
    order: dict[str, list[str]] = {}
    for left, right, _ in rows_in(tmp_path / "out"):
        order.setdefault(left, []).append(right)
    for ids in order.values():
        first = ids.index("a")
        assert ids[first : first + 4] == ["a", "b", "y", "z"]


@pytest.mark.parametrize("top_k", [None, 2])
def test_the_nearest_are_those_of_the_vector_search(
    top_k: int | None, sides: Any, encoder: DualEncoder, rows_in: ReadRows, tmp_path: Path
) -> None:
    match_indexes(sides.left, sides.right, tmp_path, nearest=5, top_k=top_k, block_pairs=20)
    with Snapshot.open(sides.left) as left, Snapshot.open(sides.right) as right:
        found, cosines = right.search(left.vectors_between(0, 13), 5)
    near = dict(zip(sides.left_ids, found, strict=True))
    expected = []
    for name, ids in near.items():
        ranked = sorted(ids, key=lambda right: (-sides.score(name, right), right))
        expected += [(name, right) for right in ranked[:top_k]]
    check(rows_in(tmp_path), expected, sides)
    table = pq.read_table(tmp_path / "scores-00000000.parquet")
    row = found[0].index(table["right"][0].as_py())
    assert table["retrieval_score"][0].as_py() == pytest.approx(float(cosines[0, row]))


def test_indexes_of_several_parts_with_deleted_texts_are_matched(
    encoder: DualEncoder, passages: list[Passage], sides: Any, rows_in: ReadRows, tmp_path: Path
) -> None:
    folder = tmp_path / "right"
    build_index(passages[:18], folder, encoder)
    add_passages(passages[18:20], folder, encoder)
    with IndexWriter(folder) as writer:
        writer.delete([passages[3].id, passages[19].id])
    match_indexes(sides.left, folder, tmp_path / "out", every=True, block_pairs=40)
    live = [each.id for each in (*passages[:3], *passages[4:19])]
    pairs = [(left, right) for left in sides.left_ids for right in live]
    check(sorted(rows_in(tmp_path / "out")), sorted(pairs), sides)


def test_the_passages_may_stand_on_the_left(sides: Any, rows_in: ReadRows, tmp_path: Path) -> None:
    pairs = [(right, left) for left, right in some_pairs(sides, 20)]
    file = write_pairs(tmp_path / "pairs.parquet", pairs)
    match_indexes(sides.right, sides.left, tmp_path / "pairs", pairs=file)
    match_indexes(sides.right, sides.left, tmp_path / "all", every=True, block_pairs=50)
    given = {row[:2]: row[2] for row in rows_in(tmp_path / "all")}
    assert len(given) == 13 * 24
    for right, left, score in rows_in(tmp_path / "pairs"):
        assert score == pytest.approx(sides.score(left, right), abs=TOLERANCE)
        assert given[right, left] == pytest.approx(score, abs=TOLERANCE)


@pytest.mark.parametrize("kind", ["pairs", "every", "nearest"])
def test_graphs_without_torch_give_the_same_scores(
    kind: str, exported: DualEncoder, passages: list[Passage], rows_in: ReadRows, tmp_path: Path
) -> None:
    build_index(passages[:9], tmp_path / "left", exported, side="query")
    build_index(passages, tmp_path / "right", exported)
    chance = Random(1)
    pairs = [(chance.choice(passages[:9]).id, chance.choice(passages).id) for _ in range(70)]
    file = write_pairs(tmp_path / "pairs.parquet", pairs)
    chosen: dict[str, Any] = {
        "pairs": {"pairs": file}, "every": {"every": True}, "nearest": {"nearest": 5}
    }[kind]  # fmt: skip
    rows = {}
    for backend in ("torch", "onnx"):
        match_indexes(
            tmp_path / "left", tmp_path / "right", tmp_path / backend, backend=backend, **chosen
        )
        rows[backend] = {row[:2]: row[2] for row in rows_in(tmp_path / backend)}
    assert rows["onnx"] == pytest.approx(rows["torch"], abs=1e-4)
