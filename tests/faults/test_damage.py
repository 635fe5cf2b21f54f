"""Bytes that change, files that are cut short, go or come: verify names them, nothing crashes."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_workers import (
    BLOCK_BYTES,
    Change,
    Outcome,
    Worker,
    perform,
    read_all,
    some_passages,
    verify_flipped,
)
from held_index import held

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import DirectoryError, StoreError
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.verification import verify_index

FILES = (
    "tokens/data.mdb",
    "passages/data.mdb",
    "ann/ann.json",
    "ann/id_ends.npy",
    "ann/ids.npy",
    "ann/index.faiss",
    "files.json",
    "deleted",
)
LEFT = 60 + 20 - 3 - 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, done: Callable[..., Outcome]) -> Path:
    """An index of two parts, both with deletions."""
    folder = tmp_path_factory.mktemp("whole") / "i"
    done(
        folder,
        Change("build", some_passages(60)),
        Change("add", some_passages(20, first=60)),
        Change("delete", ids=("p0003", "p0030", "p0070", *(f"p{n:04}" for n in range(40, 60)))),
    )
    return folder


@pytest.fixture
def index_dir(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "i"))


def file_of(index_dir: Path, name: str, part: int) -> Path:
    info = Manifest.read(index_dir).parts[part]
    return index_dir / "parts" / info.name / (info.deleted_file if name == "deleted" else name)


@pytest.mark.parametrize(
    ("part", "count"),
    [(0, 12), *(pytest.param(part, 500, marks=pytest.mark.slow) for part in (0, 1))],
)
@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found_in_its_file_and_block(
    workers: Any, index_dir: Path, name: str, part: int, count: int
) -> None:
    file = file_of(index_dir, name, part)
    size = file.stat().st_size
    drawn = random.Random(f"{name} {part}").choices(range(size), k=count - 2)
    places = [0, size - 1, *drawn]
    outcome = Worker(workers, verify_flipped, index_dir, file, places).end()

    assert (outcome.exit_code, len(outcome.said)) == (0, count)
    for place, sentences in zip(places, outcome.said, strict=True):
        assert len(sentences) == 2
        first = place // BLOCK_BYTES * BLOCK_BYTES
        last = min(first + BLOCK_BYTES, size) - 1
        block = f" between bytes {first:,} and {last:,}"
        alone = name in ("files.json", "deleted")
        assert sentences[0].startswith(f"{file} is not what was written{'' if alone else block}")
        assert "restore it from a copy, or build the index again with --overwrite" in sentences[1]
    assert list(verify_index(index_dir)) == []


@pytest.mark.parametrize("count", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_a_changed_byte_is_found_in_each_file_of_a_tensorstore(
    workers: Any, done: Callable[..., Outcome], tmp_path: Path, count: int
) -> None:
    index_dir, chance = tmp_path / "i", random.Random(count)
    done(index_dir, Change("build", some_passages(40), store="tensorstore"))
    files = [file for file in (index_dir / "parts").rglob("tokens/**/*") if file.is_file()]
    assert len(files) > 3
    for file in files:
        places = chance.choices(range(file.stat().st_size), k=count)
        outcome = Worker(workers, verify_flipped, index_dir, file, places).end()
        assert (outcome.exit_code, len(outcome.said)) == (0, count)
        for sentences in outcome.said:
            assert sentences[0].startswith(f"{file} is not what was written between bytes ")


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_each_byte_of_the_manifest_counts(index_dir: Path, bits: int) -> None:
    file, chance = index_dir / "manifest.json", random.Random(bits)
    whole = file.read_bytes()
    for place in range(len(whole)):
        for bit in chance.sample(range(8), bits):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            with pytest.raises(DirectoryError, match=r"manifest\.json|has format version"):
                next(verify_index(index_dir))


def test_a_line_end_that_python_takes_for_another_is_found(index_dir: Path) -> None:
    file = index_dir / "manifest.json"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r", 1))
    with pytest.raises(DirectoryError, match=r"damaged \(it is not what was written\)"):
        Manifest.read(index_dir)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def lengthen(file: Path) -> None:
    os.truncate(file, file.stat().st_size + 4096)


def turn_into_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": cut,
    "empty": empty,
    "longer": lengthen,
    "missing": Path.unlink,
    "a folder": turn_into_a_folder,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_cut_short_or_gone_is_named_and_crashes_no_reader(
    workers: Any, index_dir: Path, name: str, damage: str
) -> None:
    file = file_of(index_dir, name, 1)
    DAMAGES[damage](file)
    sentences = list(verify_index(index_dir))
    assert re.search(
        f"{file}( has .* bytes instead of .*| is not what was written| cannot be read:|:)",
        sentences[0],
    )

    reading = Worker(workers, read_all, index_dir).end()
    assert reading.exit_code == 0
    assert str(file.parent) in reading.said[0]


@pytest.mark.parametrize("gone", ["parts", "parts/000001", "parts/*/tokens", "parts/*/ann"])
def test_a_folder_that_is_gone_is_named(workers: Any, index_dir: Path, gone: str) -> None:
    (folder,) = list(index_dir.glob(gone))[:1]
    shutil.rmtree(folder)
    assert any(str(folder) in sentence for sentence in verify_index(index_dir))
    reading = Worker(workers, read_all, index_dir).end()
    assert reading.exit_code == 0
    assert str(folder) in reading.said[0]


def test_a_file_of_somebody_else_in_a_part_is_named_and_does_no_harm(
    workers: Any, index_dir: Path, encoder: DualEncoder
) -> None:
    stray = file_of(index_dir, "tokens/notes.txt", 0)
    stray.write_text("mine")
    assert f"{stray} does not belong to the index: move it away" in list(verify_index(index_dir))
    assert Worker(workers, read_all, index_dir).end().said == [LEFT]
    assert Worker(workers, perform, Change("compact"), index_dir).end().acknowledged
    assert len(held(index_dir, encoder)) == LEFT


def test_files_of_somebody_else_beside_the_parts_are_left_alone(
    index_dir: Path, done: Callable[..., Outcome], encoder: DualEncoder
) -> None:
    strays = [index_dir / "notes.txt", index_dir / "parts" / "notes.txt", index_dir / "parts" / "²"]
    for stray in strays:
        stray.write_text("mine")
    done(index_dir, Change("compact"), Change("add", some_passages(5, first=90)))
    assert len(held(index_dir, encoder)) == LEFT + 5
    done(index_dir, Change("build overwrite", some_passages(30)))
    assert len(held(index_dir, encoder)) == 30
    assert [stray.read_text() for stray in strays] == ["mine"] * 3


@pytest.mark.parametrize("name", FILES)
def test_what_is_damaged_is_not_copied_into_a_part_that_looks_whole(
    workers: Any, index_dir: Path, name: str
) -> None:
    file = file_of(index_dir, name, 0)
    changed = bytearray(file.read_bytes())
    changed[len(changed) // 2] ^= 1
    file.write_bytes(changed)
    before = list(verify_index(index_dir))
    outcome = Worker(workers, perform, Change("compact"), index_dir).end()
    assert outcome.exit_code == 0
    assert re.match(f"StoreError: {file} is not what was written", outcome.complaint)
    assert list(verify_index(index_dir)) == before
    with pytest.raises(StoreError, match="is not what was written"), IndexWriter(index_dir) as its:
        its.compact()


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "tokens/data.mdb",
        *(pytest.param(each, marks=pytest.mark.slow) for each in FILES[1:]),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_index_can_be_built_again(
    index_dir: Path, done: Callable[..., Outcome], encoder: DualEncoder, name: str, damage: str
) -> None:
    file = index_dir / name if name == "manifest.json" else file_of(index_dir, name, 0)
    DAMAGES[damage](file)
    done(index_dir, Change("build overwrite", some_passages(30)))
    assert len(held(index_dir, encoder)) == 30
