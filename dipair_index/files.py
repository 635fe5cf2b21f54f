"""Files and folders that appear only when they are whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dipair_index.errors import DirectoryError, WriteError

REPLACED = ".dipair-replaced"
"""Ends the name of what a new folder is about to replace; nobody's own folder is called so."""


def move_into_place(folder: Path, target: Path) -> None:
    """Renames `folder` to `target`; what was there is kept until the new one is in its place."""
    place, old = Path(os.path.realpath(target)), sibling(target, REPLACED)
    if place.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(place, old)
    os.replace(folder, place)
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
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path to write to that becomes `path` only when all went well."""
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def put(file: Path, data: bytes) -> None:
    """Replaces `file` in one step; two processes that do so at once do not disturb each other."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(file)


def write_whole(file: Path, data: bytes) -> None:
    """Replaces `file` in one step that outlives a power cut; `WriteError` leaves the old one."""
    part = file.with_name(f"{file.name}.tmp")
    try:
        with part.open("wb") as target:
            target.write(data)
            target.flush()
            os.fsync(target.fileno())
        os.replace(part, file)
        sync(file.parent)
    except OSError as error:
        raise WriteError(
            f"cannot write {file}: {error.strerror or error}. Make room on the disk, or choose a "
            "place that may be written to"
        ) from error


def sync(path: Path) -> None:
    """Makes a file, or the renames inside a folder, last through a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
