"""kill -9 and full disks: the same command goes on and ends with the same bytes."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dipair_index.rerank.offline.match import match_indexes

# the processes import what they do by name
sys.path.insert(0, str(Path(__file__).parent))
import match_workers

BytesIn = Callable[[Path], dict[str, bytes]]
KINDS = ("pairs", "every", "best", "nearest")


@pytest.fixture(scope="module")
def settings_of(sides: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Each kind of match, in ten blocks or so."""
    chance, file = Random(0), tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    columns = {
        "left": [chance.choice(sides.left_ids) for _ in range(200)],
        "right": [chance.choice(sides.right_ids) for _ in range(200)],
    }
    pq.write_table(pa.table(columns), file, row_group_size=30)
    return {
        "pairs": {"pairs": file, "block_pairs": 20},
        "every": {"every": True, "block_pairs": 30},
        "best": {"every": True, "top_k": 3, "block_pairs": 40},
        "nearest": {"nearest": 4, "block_pairs": 5},
    }


@pytest.fixture(scope="module")
def forked() -> Any:
    """Starts processes that have the slow imports behind them."""
    return multiprocessing.get_context("fork")


class Run:
    """A match in a process of its own."""

    def __init__(self, forked: Any, settings: dict[str, Any], *folders: Path, step: int = -1):
        self.hears, said = forked.Pipe(duplex=False)
        arguments = (said, step, settings, folders)
        self.process = forked.Process(target=match_workers.run, args=arguments)
        self.process.start()
        said.close()

    def end(self) -> str | None:
        """Waits for the end; returns what is wrong in words, or None if it was killed."""
        last: str | None = None
        try:
            while True:
                last = self.hears.recv()
        except EOFError:
            self.process.join()
        return None if self.process.exitcode else last


@pytest.mark.parametrize("kind", KINDS)
def test_a_match_that_is_killed_goes_on_to_the_same_bytes(
    kind: str,
    sides: Any,
    settings_of: dict[str, dict[str, Any]],
    forked: Any,
    bytes_in: BytesIn,
    tmp_path: Path,
) -> None:
    settings, out = settings_of[kind], tmp_path / "out"
    match_indexes(sides.left, sides.right, tmp_path / "undisturbed", **settings)
    steps = Random(kind).sample(range(1, 7), 2)
    for step in steps:
        assert Run(forked, settings, sides.left, sides.right, out, step=step).end() is None
        assert list(out.glob("*.tmp"))
    match_indexes(sides.left, sides.right, out, **settings)
    assert bytes_in(out) == bytes_in(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_hundred_kills_at_any_moment_change_no_byte(
    sides: Any,
    settings_of: dict[str, dict[str, Any]],
    forked: Any,
    bytes_in: BytesIn,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    chance, killed = Random(3), 0
    for number in range(1000):
        kind = KINDS[number % len(KINDS)]
        settings, out = settings_of[kind], tmp_path / "out"
        whole = tmp_path / kind
        if not whole.exists():
            match_indexes(sides.left, sides.right, whole, **settings)
        for _ in range(5):
            run = Run(forked, settings, sides.left, sides.right, out)
            run.hears.poll(60)
            time.sleep(0.05 * chance.random())
            run.process.kill()
            killed += run.end() is None
        match_indexes(sides.left, sides.right, out, **settings)
        assert bytes_in(out) == bytes_in(whole)
        shutil.rmtree(out)
        if killed >= 100:
            break
    assert killed >= 100
    pytestconfig.get_terminal_writer().line(f" survived {killed} kills")


@pytest.fixture
def small_disk(mounted: Callable[..., Iterator[Path]], tmp_path: Path) -> Iterator[Path]:
    yield from mounted("-t", "tmpfs", "-o", "size=256k", "tmpfs", place=tmp_path / "disk")


def test_a_full_disk_keeps_what_is_done(
    sides: Any, small_disk: Path, bytes_in: BytesIn, tmp_path: Path
) -> None:
    settings = {"every": True, "block_pairs": 30}
    filler, out = small_disk / "filler", small_disk / "out"
    stats = os.statvfs(small_disk)
    with filler.open("wb") as target:
        os.posix_fallocate(target.fileno(), 0, stats.f_bavail * stats.f_frsize - 7 * 4096)
    with pytest.raises(Exception, match=r"cannot write .*No space left on device. Make room"):
        match_indexes(sides.left, sides.right, out, **settings)
    done = [name for name in bytes_in(out) if re.match("scores-", name)]
    assert done
    before = {name: (out / name).stat().st_mtime_ns for name in done}
    filler.unlink()
    match_indexes(sides.left, sides.right, out, **settings)
    match_indexes(sides.left, sides.right, tmp_path / "whole", **settings)
    assert bytes_in(out) == bytes_in(tmp_path / "whole")
    assert {name: (out / name).stat().st_mtime_ns for name in done} == before
