"""A process that ends before any one of its changes to the disk leaves the old index or the new.

Each command is run again and again; each time it ends one change later, until it gets through.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import DiPairError, DirectoryError, MissingPassagesError
from dipair_index.records import Passage
from dipair_index.rerank import part_builder
from dipair_index.rerank.build import add_passages, build_index
from dipair_index.rerank.index import DiPairIndex
from dipair_index.stores.environment import Environment
from dipair_index.stores.index_directory import Layout
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.snapshot import Snapshot
from dipair_index.stores.verification import verify_index

Command = Callable[..., object]
CHANGES = ("rename", "replace", "fsync", "unlink", "rmdir", "mkdir")


class Died(BaseException):
    """Nothing catches it, as nothing catches `kill -9`."""


class Disk:
    """Counts changes; before the `last` one the process is killed, or the disk is full once."""

    def __init__(self, patch: pytest.MonkeyPatch, last: int, *, killed: bool) -> None:
        self.changes = 0
        self._last = last
        self._killed = killed
        for name in CHANGES:
            patch.setattr(os, name, partial(self._change, getattr(os, name)))
        # rmtree looks for what the system can do by these
        patch.setattr(os, "supports_dir_fd", {*os.supports_dir_fd, os.unlink, os.rmdir, os.mkdir})
        written, disk = Environment.write, self

        def write(self: Environment, *arguments: Any, **more: Any) -> Any:
            return disk._change(written, self, *arguments, **more)

        patch.setattr(Environment, "write", write)

    @property
    def reached(self) -> bool:
        return self.changes >= self._last

    def _change(self, change: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        self.changes += 1
        if self.changes < self._last or (not self._killed and self.changes > self._last):
            return change(*arguments, **more)
        if change.__name__ == "fsync":
            # what was not synced may be there in part
            with suppress(OSError):
                os.ftruncate(arguments[0], max(0, os.fstat(arguments[0]).st_size - 3))
        if self._killed:
            # who is dead cleans up nothing: every change from here on ends here
            raise Died
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_builder, "PASSAGES_PER_CHUNK", 2)


def seen(index_dir: Path, encoder: DualEncoder) -> dict[str, Any] | None:
    """Everything that a reader of an index sees; None where there is none."""
    if not Layout(index_dir).manifest.exists():
        with pytest.raises(DirectoryError, match=r"is no index at|has no manifest\.json"):
            Snapshot.open(index_dir)
        return None
    with Snapshot.open(index_dir) as snapshot, DiPairIndex.open(index_dir, encoder) as index:
        assert list(verify_index(index_dir)) == []
        ids = list(snapshot)
        return {
            "ids": ids,
            "found": index.search(["moon", "the tea"], top_k=9, raw_scores=True),
            "words": snapshot.manifest.lexical and snapshot.search_words("the moon", 9),
            "texts": snapshot.passages(ids),
            "tokens": snapshot.tokens(ids).tobytes(),
        }


def assert_tidy(index_dir: Path) -> None:
    assert sorted(os.listdir(index_dir)) == ["manifest.json", "parts", "writer.lock"]
    names = [part.name for part in Manifest.read(index_dir).parts]
    assert sorted(os.listdir(index_dir / "parts")) == names
    for name in names:
        files = {"ann", "files.json", "lexical", "passages", "texts.npy", "tokens", "tokens.url"}
        part = Layout(index_dir).part(name).root
        assert {each for each in os.listdir(part) if not each.startswith("deleted-")} <= files
        assert not list(part.glob("*.tmp"))


def delete(index_dir: Path, ids: list[str]) -> None:
    with IndexWriter(index_dir) as writer:
        writer.delete(ids)


def compact(index_dir: Path) -> None:
    with IndexWriter(index_dir) as writer:
        writer.compact()


def commands(
    passages: list[Passage], encoder: DualEncoder, settings: Mapping[str, Any]
) -> dict[str, tuple[Command, Command, type[DiPairError] | None]]:
    """Each with how it is run again after a crash, and what that says if it was done already."""
    add = partial(add_passages, passages[6:9], encoder=encoder)
    update = partial(add_passages, [passages[9], passages[2]], encoder=encoder, update=True)
    build = partial(build_index, passages[3:6], encoder=encoder, **settings)
    remove = partial(delete, ids=["p01", "p05"])
    return {
        "add": (add, partial(add, resume=True), DirectoryError),
        "update": (update, partial(update, resume=True), None),
        "start over": (
            partial(add, overwrite=True),
            partial(add, resume=True),
            DirectoryError,
        ),
        "delete": (remove, remove, MissingPassagesError),
        "compact": (compact, compact, None),
        "build": (build, partial(build, resume=True), DirectoryError),
        "overwrite": (
            partial(build, overwrite=True),
            partial(build, overwrite=True, resume=True),
            None,
        ),
    }


def prepared(
    folder: Path,
    name: str,
    passages: list[Passage],
    encoder: DualEncoder,
    settings: Mapping[str, Any],
) -> Path:
    """The index that the command begins with: two parts, one passage deleted from the first."""
    if name != "build":
        build_index(passages[:4], folder, encoder, **settings)
        add_passages(passages[4:6], folder, encoder)
        delete(folder, ["p03"])
    if name == "start over":
        with pytest.raises(KeyboardInterrupt):
            add_passages(interrupted(passages[6:8]), folder, encoder)
    return folder


def interrupted(passages: list[Passage]) -> Iterator[Passage]:
    yield from passages
    raise KeyboardInterrupt


def crash_everywhere(
    folder: Path,
    name: str,
    passages: list[Passage],
    encoder: DualEncoder,
    *,
    killed: bool,
    settings: Mapping[str, Any],
) -> int:
    """Runs the command until it gets through; returns how often it did not."""
    command, again, refused = commands(passages, encoder, settings)[name]
    origin = prepared(folder / "origin", name, passages, encoder, settings)
    whole = prepared(folder / "whole", name, passages, encoder, settings)
    old = seen(origin, encoder)
    command(index_dir=whole)
    new = seen(whole, encoder)
    assert new is not None
    crashes, last = 0, 1
    while True:
        place = folder / "i"
        if origin.exists():
            shutil.copytree(origin, place)
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, last, killed=killed)
            with suppress(Died, DiPairError, OSError):
                command(index_dir=place)
        now = seen(place, encoder)
        where = f"{name} that ended before change {last}"
        assert now in (old, new), where
        if not disk.reached:
            assert now == new
            assert_tidy(place)
            return crashes
        if now == new and refused is not None:
            with pytest.raises(refused):
                again(index_dir=place)
            # the next one that changes something cleans up
            compact(place)
        else:
            again(index_dir=place)
        assert seen(place, encoder) == new, where
        assert_tidy(place)
        shutil.rmtree(place)
        crashes += 1
        last += 1


KILLED, FULL = True, False


def slow(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "killed", "store"),
    [
        ("add", KILLED, "lmdb"),
        ("delete", KILLED, "lmdb"),
        ("compact", KILLED, "lmdb"),
        slow("build", KILLED, "lmdb"),
        ("overwrite", KILLED, "lmdb"),
        slow("update", FULL, "lmdb"),
        slow("start over", KILLED, "lmdb"),
        ("delete", FULL, "lmdb"),
        ("compact", FULL, "lmdb"),
        slow("add", FULL, "lmdb"),
        slow("build", FULL, "lmdb"),
        slow("overwrite", FULL, "lmdb"),
        slow("update", KILLED, "lmdb"),
        slow("update", KILLED, "tensorstore"),
        slow("compact", KILLED, "tensorstore"),
        slow("overwrite", FULL, "tensorstore"),
        slow("compact", KILLED, "lexical"),
        slow("add", KILLED, "lexical"),
        slow("build", FULL, "lexical"),
    ],
)
def test_a_crash_anywhere_leaves_the_old_index_or_the_new_one(
    quick_path: Path,
    lone_encoder: DualEncoder,
    passages: list[Passage],
    name: str,
    killed: bool,
    store: str,
) -> None:
    settings = {"lexical": True} if store == "lexical" else {"store": store}
    crashes = crash_everywhere(
        quick_path, name, passages, lone_encoder, killed=killed, settings=settings
    )
    # else the first try got through, and nothing was shown
    assert crashes >= 10
