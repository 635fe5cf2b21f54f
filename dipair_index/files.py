"""Files and folders that appear only when they are whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from dipair_index.errors import DirectoryError, WriteError

REPLACED = ".dipair-replaced"
"""Ends the name of what a new folder is about to replace; nobody's own folder is called so."""


def move_into_place(folder: Path, target: Path) -> None:
    """Renames `folder` to `target`; what was there is kept until the new one is in its place.

    All that is in `folder` is on disk by then.
    """
    place, old = Path(os.path.realpath(target)), sibling(target, REPLACED)
    for path in (*folder.rglob("*"), folder):
        sync(path)
    if place.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(place, old)
    os.replace(folder, place)
    sync(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def link(source: str | Path, target: str | Path) -> None:
    """Gives a file a second name, or copies it where the file system cannot."""
    if Path(source).is_file():
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)


def sibling(out: Path, suffix: str) -> Path:
    """Returns the path beside `out` whose name ends in `suffix`."""
    # a link is followed, so that the move stays on one disk
    place = Path(os.path.realpath(out))
    return place.with_name(place.name + suffix)


def utf8_path(path: str | Path) -> str:
    """Returns the path as libraries take it that encode paths as UTF-8, whatever the locale.

    Raises `DirectoryError` if the bytes of the path are not UTF-8.
    """
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        raise DirectoryError(
            f"the name of {os.fspath(path)!a} is not UTF-8: choose another place for it"
        ) from error


@contextmanager
def replacing(path: Path, *, together: bool = False) -> Iterator[Path]:
    """Gives a path to write to that becomes `path` in one step when all went well.

    The step outlives a power cut, and what was at `path` stays until then. With `together` others
    may replace the same file at once. Raises `WriteError` if it cannot be written.
    """
    own = f".{uuid4().hex}" if together else ""
    unfinished = path.with_name(f"{path.name}{own}.tmp")
    try:
        yield unfinished
        with unfinished.open("r+b") as written:
            os.fsync(written.fileno())
        os.replace(unfinished, path)
        sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> WriteError:
    """Returns the `WriteError` of a file or folder that the system refused to write."""
    return WriteError(
        f"cannot write {path}: {error.strerror or error}. Make room on the disk, or choose a "
        "place that may be written to"
    )


def write_whole(path: Path, data: bytes, *, together: bool = False) -> None:
    """Replaces a file as `replacing` does."""
    with replacing(path, together=together) as unfinished:
        unfinished.write_bytes(data)


def sync(path: Path) -> None:
    """Makes a file, or the renames inside a folder, last through a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
