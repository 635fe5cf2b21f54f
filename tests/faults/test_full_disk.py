"""Disks without room, and disks that take no writes: a sentence says so, the index is as it was."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fault_workers import (
    BEFORE,
    CHANGES,
    Outcome,
    Worker,
    perform,
    read_all,
    save_ann,
    without_rights,
)
from held_index import Held, answers, assert_nothing_is_left_over, found, held

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.stores.names import STORE_NAMES

KIB = 1024
DISK_BYTES = 8192 * KIB
PAGE = os.sysconf("SC_PAGE_SIZE")
NO_ROOM = (
    "^(StoreError|WriteError|DirectoryError|OSError): "
    ".*(No space left|File too large|make room on the disk)"
)


@pytest.fixture(scope="module")
def starts(
    tmp_path_factory: pytest.TempPathFactory, done: Callable[..., Outcome]
) -> dict[str, Path]:
    """An index of two parts with each kind of store."""
    folder = tmp_path_factory.mktemp("starts")
    for store in STORE_NAMES:
        done(folder / store, *(replace(change, store=store) for change in BEFORE))
    return {store: folder / store for store in STORE_NAMES}


@pytest.fixture
def start(starts: dict[str, Path]) -> Path:
    return starts["lmdb"]


@pytest.fixture
def small_disk(mounted: Callable[..., Iterator[Path]], tmp_path: Path) -> Iterator[Path]:
    yield from mounted("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", place=tmp_path / "disk")


def leave(disk: Path, count: int) -> Path:
    """Fills the disk but for `count` bytes; returns the file that does."""
    stats, filler = os.statvfs(disk), disk / "filler"
    with filler.open("wb") as target:
        os.posix_fallocate(target.fileno(), 0, stats.f_bavail * stats.f_frsize - count)
    return filler


@pytest.mark.parametrize(
    "rooms",
    [
        [0, 200 * KIB],
        pytest.param(range(0, DISK_BYTES, 2 * PAGE), marks=pytest.mark.slow),
    ],
    ids=["quick", "every two pages"],
)
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("store", ["lmdb", pytest.param("tensorstore", marks=pytest.mark.slow)])
def test_a_full_disk_leaves_the_index_and_more_room_helps(
    store: str,
    name: str,
    rooms: list[int],
    small_disk: Path,
    starts: dict[str, Path],
    workers: Any,
    done: Callable[..., Outcome],
    encoder: DualEncoder,
    pytestconfig: pytest.Config,
) -> None:
    change, index_dir, refused = replace(CHANGES[name], store=store), small_disk / "i", 0
    for room in rooms:
        before = start_from(None if name == "build" else starts[store], index_dir, encoder)
        filler = leave(small_disk, room)
        outcome = Worker(workers, perform, change, index_dir).end()
        assert outcome.exit_code == 0
        if not outcome.acknowledged:
            refused += 1
            assert re.search(NO_ROOM, outcome.complaint, re.DOTALL)
            assert found(index_dir, encoder) == before
            filler.unlink()
            done(index_dir, change, resume=True)
        assert found(index_dir, encoder) == change.after(before or {})
        filler.unlink(missing_ok=True)
        assert_nothing_is_left_over(index_dir)
        shutil.rmtree(index_dir)
        if outcome.acknowledged:
            break
    assert refused
    pytestconfig.get_terminal_writer().line(f" {name} in {store} survived {refused} full disks")


def start_from(start: Path | None, index_dir: Path, encoder: DualEncoder) -> Held:
    if start is None:
        return None
    shutil.copytree(start, index_dir)
    return held(index_dir, encoder)


@pytest.mark.parametrize(
    "limit", [200, *(pytest.param(each, marks=pytest.mark.slow) for each in (4096, 40_000)), 70_000]
)
@pytest.mark.parametrize("name", CHANGES)
def test_a_limit_of_file_sizes_leaves_the_index_and_a_higher_one_helps(
    name: str,
    limit: int,
    start: Path,
    workers: Any,
    done: Callable[..., Outcome],
    encoder: DualEncoder,
    tmp_path: Path,
) -> None:
    change, index_dir = CHANGES[name], tmp_path / "i"
    before = start_from(None if name == "build" else start, index_dir, encoder)
    outcome = Worker(workers, perform, change, index_dir, False, 0, limit).end()
    assert outcome.exit_code == 0
    if name == "delete" and limit > 200:
        assert outcome.acknowledged
    else:
        assert re.search(NO_ROOM, outcome.complaint, re.DOTALL)
        assert found(index_dir, encoder) == before
        done(index_dir, change, resume=True)
    assert found(index_dir, encoder) == change.after(before or {})
    assert_nothing_is_left_over(index_dir)


@pytest.mark.parametrize("missing", [1, 40, 4000, 20_000])
def test_an_ann_index_whose_last_bytes_find_no_room_is_refused(
    missing: int, workers: Any, tmp_path: Path
) -> None:
    """FAISS itself says nothing where the bytes are fewer than its buffer holds."""
    assert Worker(workers, save_ann, tmp_path / "whole", 10**9).end().said == []
    size = (tmp_path / "whole" / "index.faiss").stat().st_size
    outcome = Worker(workers, save_ann, tmp_path / "cut", size - missing).end()
    assert outcome.exit_code == 0
    (sentence,) = outcome.said
    assert re.search("cannot write the ANN index to .*cut: .*File too large.*Make room", sentence)


@pytest.fixture
def mounted_read_only(
    mounted: Callable[..., Iterator[Path]], start: Path, tmp_path: Path
) -> Iterator[Path]:
    for place in mounted("--bind", str(start), place=tmp_path / "read only"):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
        yield place


@pytest.fixture
def without_write_permission(start: Path) -> Iterator[Path]:
    # pytest's own folders are closed to others
    with tempfile.TemporaryDirectory() as folder:
        index_dir = Path(shutil.copytree(start, Path(folder) / "i"))
        os.chmod(folder, 0o755)
        subprocess.run(["chmod", "-R", "a-w,a+rX", str(index_dir)], check=True)
        yield index_dir
        subprocess.run(["chmod", "-R", "u+w", str(index_dir)], check=True)


@pytest.mark.parametrize("kind", ["mounted_read_only", "without_write_permission"])
def test_an_index_that_takes_no_writes_is_read_and_says_so(
    kind: str, request: pytest.FixtureRequest, start: Path, workers: Any, encoder: DualEncoder
) -> None:
    index_dir: Path = request.getfixturevalue(kind)
    rights = (without_rights,) if kind == "without_write_permission" else ()
    files = {file: file.stat() for file in index_dir.rglob("*")}
    before = held(index_dir, encoder)
    assert answers(index_dir, encoder) == answers(start, encoder)
    reading = Worker(workers, *rights, read_all, index_dir).end()
    assert (reading.said, reading.exit_code) == ([len(before)], 0)

    for name, change in CHANGES.items():
        outcome = Worker(workers, *rights, perform, change, index_dir).end()
        if name == "build":
            assert "there is an index at" in outcome.complaint
        else:
            assert re.search(
                r"StoreError: .* cannot be changed: (Read-only file system|Permission denied)\. "
                "It can still be read",
                outcome.complaint,
            )
    new = Worker(workers, *rights, perform, CHANGES["build"], index_dir / "new").end()
    assert re.search("Read-only file system|Permission denied", new.complaint)
    assert held(index_dir, encoder) == before
    assert {file: file.stat().st_mtime_ns for file in index_dir.rglob("*")} == {
        file: stat.st_mtime_ns for file, stat in files.items()
    }
