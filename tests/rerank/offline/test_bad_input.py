"""Bad pairs, folders and indexes: a sentence names them, and what is done stays done."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import (
    DiPairError,
    DirectoryError,
    FormatError,
    MissingPassagesError,
    SettingsError,
)
from dipair_index.rerank.build import build_index
from dipair_index.rerank.offline.match import match_indexes
from dipair_index.stores.index_directory import WriterLock

BytesIn = Callable[[Path], dict[str, bytes]]


def write(file: Path, left: list[Any], right: list[Any], **others: list[Any]) -> Path:
    pq.write_table(pa.table({"left": left, "right": right, **others}), file)
    return file


def test_an_id_that_an_index_lacks_is_named_with_its_row(
    sides: Any, bytes_in: BytesIn, tmp_path: Path
) -> None:
    left, right = ["q01"] * 12, ["p00"] * 12
    right[9], right[10] = "p77", "p78"
    file, out = write(tmp_path / "pairs.parquet", left, right), tmp_path / "out"
    with pytest.raises(MissingPassagesError) as raised:
        match_indexes(sides.left, sides.right, out, pairs=file, block_pairs=5)
    assert str(raised.value) == (
        f"row 10 of {file}: the right id p77 is not in {sides.right}: add these texts to the "
        "index, or leave the rows out"
    )
    assert {"manifest.json", "scores-00000000.parquet"} == set(bytes_in(out))
    tsv = tmp_path / "pairs.tsv"
    tsv.write_text("".join(f"q0{row + 1}\tp00\n" for row in range(8)) + "q1\tp1\nq2\tp2\n")
    with pytest.raises(
        MissingPassagesError,
        match=f"line 9 of {tsv}: the left id q1 is not in {sides.left}, nor 1 other near it: add",
    ):
        match_indexes(sides.left, sides.right, tmp_path / "other", pairs=tsv, block_pairs=4)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("q01\tp00\nq02", "line 2 of FILE: expected 2 tab-separated ids, got 1"),
        ("q01\tp00\nq02\tp00\t1\n", "line 2 of FILE: expected 2 tab-separated ids, got 3"),
        ("q01\tp00\n\nq02\tp00\n", "line 2 of FILE has no left id: give every row one"),
        ("q01\tp00\n\tp00\n", "line 2 of FILE has no left id: give every row one"),
        (b"q01\tp00\nq\xff\tp00\n", "FILE is not UTF-8 text with two ids a line: "),
        (b"\x1f\x8b\x08", "FILE is compressed with gzip, in which no block can be found: unpack"),
        ("", "there is no pair in FILE: expected at least one"),
    ],
)
def test_bad_lines_are_named(
    content: str | bytes, complaint: str, sides: Any, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FormatError, match=re.escape(complaint.replace("FILE", str(file)))):
        match_indexes(sides.left, sides.right, tmp_path / "out", pairs=file)


def test_parquet_that_is_no_table_of_pairs_is_refused(sides: Any, tmp_path: Path) -> None:
    def refused(file: Path) -> str:
        with pytest.raises(DiPairError) as raised:
            match_indexes(sides.left, sides.right, tmp_path / "out", pairs=file)
        return str(raised.value).replace(str(file), "FILE")

    whole = write(tmp_path / "whole.parquet", ["q01"] * 500, ["p00"] * 500)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-100])
    assert refused(cut).startswith("FILE is not a Parquet file or is damaged: make it again (")
    file = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"left": ["q01"], "passage": ["p00"]}), file)
    assert refused(file) == "FILE has the columns left, passage, expected left and right with ids"
    write(file, ["q01", None], ["p00", "p00"])
    assert refused(file) == "row 2 of FILE has no left id: give every row one"
    write(file, ["q01"], ["p00"], score=[0.5])
    assert refused(file) == "FILE has a column score already: rename it or leave it out"
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "holds no pair file: expected files that end in .parquet or .tsv" in refused(folder)
    write(folder / "a.parquet", ["q01"], ["p00"])
    write(folder / "b.parquet", ["q01"], ["p00"], label=[1])
    assert f"{folder / 'b.parquet'} has other columns than" in refused(folder).replace(
        "FILE", str(folder)
    )
    assert refused(tmp_path / "absent") == "there is no file or folder FILE: check the path"


def test_damage_in_the_middle_leaves_the_blocks_before_it(
    sides: Any, bytes_in: BytesIn, tmp_path: Path
) -> None:
    table = pa.table({"left": ["q01"] * 3000, "right": ["p00"] * 3000})
    file = tmp_path / "pairs.parquet"
    pq.write_table(
        table, file, row_group_size=1000, write_page_checksum=True, use_dictionary=False,
        compression="none",
    )  # fmt: skip
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    with pytest.raises(FormatError, match=f"{file} is not a Parquet file or is damaged"):
        match_indexes(sides.left, sides.right, tmp_path / "out", pairs=file, block_pairs=900)
    assert "scores-00000000.parquet" in bytes_in(tmp_path / "out")


def test_the_folder_of_another_run_is_left_alone(
    sides: Any, bytes_in: BytesIn, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    match_indexes(sides.left, sides.right, out, every=True, min_score=0.25)
    before = bytes_in(out)
    with pytest.raises(
        DirectoryError,
        match=f"{out} holds another match, whose min score is 0.25 and not 0.5: choose another "
        "--out, give the same settings to go on with it, or pass --overwrite to replace it",
    ):
        match_indexes(sides.left, sides.right, out, every=True, min_score=0.5)
    assert bytes_in(out) == before
    match_indexes(sides.left, sides.right, out, every=True, top_k=3, overwrite=True)
    assert json.loads((out / "manifest.json").read_text())["top_k"] == 3
    match_indexes(sides.left, sides.right, tmp_path / "new", every=True, top_k=3)
    assert bytes_in(out) == bytes_in(tmp_path / "new")


def test_files_of_others_are_never_written_over(sides: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    complaint = f"{tmp_path} holds files that no match has written, such as notes.txt"
    for overwrite in (False, True):
        with pytest.raises(DirectoryError, match=complaint):
            match_indexes(sides.left, sides.right, tmp_path, every=True, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "manifest.json").write_text('{"kind": "dipair-index"}')
    with pytest.raises(
        DirectoryError, match="holds a manifest.json of something else than a match"
    ):
        match_indexes(sides.left, sides.right, tmp_path / "index", every=True)


def test_one_process_at_a_time_runs_a_match(sides: Any, tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    with pytest.raises(DirectoryError, match=f"{tmp_path} is being changed by process"):
        match_indexes(sides.left, sides.right, tmp_path, every=True)
    lock.release()


def test_pairs_that_changed_are_another_match(sides: Any, tmp_path: Path) -> None:
    file, out = tmp_path / "pairs.parquet", tmp_path / "out"
    match_indexes(sides.left, sides.right, out, pairs=write(file, ["q01"], ["p00"]))
    write(file, ["q01"], ["p01"])
    with pytest.raises(DirectoryError, match="holds another match, whose pairs digest is"):
        match_indexes(sides.left, sides.right, out, pairs=file)


def test_indexes_of_two_models_are_refused(
    sides: Any, other_model_dir: Path, passages: list[Any], tmp_path: Path
) -> None:
    build_index(passages, tmp_path / "i", DualEncoder.load(other_model_dir))
    with pytest.raises(DirectoryError, match=f"{sides.left} was built by .*, and {tmp_path / 'i'}"):
        match_indexes(sides.left, tmp_path / "i", tmp_path / "out", every=True)
    with pytest.raises(DirectoryError, match="was built by the model .* but .* is"):
        match_indexes(sides.left, sides.right, tmp_path / "out", every=True, model=other_model_dir)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "give exactly one of pairs"),
        ({"every": True, "nearest": 3}, "give exactly one of pairs"),
        ({"pairs": "x", "top_k": 3}, "every pair of a file gets its score"),
        ({"nearest": 3, "top_k": 4}, "top_k must be nearest"),
        ({"every": True, "block_pairs": 0}, "block_pairs must be 1 or more, got 0"),
        ({"every": True, "engine": "spark"}, "unknown engine 'spark': choose one of plain, ray"),
        ({"every": True, "workers": 2}, "workers are for the engine ray"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(
    settings: dict[str, Any], complaint: str, sides: Any, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=complaint):
        match_indexes(sides.left, sides.right, tmp_path / "out", **settings)
