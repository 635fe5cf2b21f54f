"""Atomic writes: files and folders appear only when they are complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from dipair_index.errors import DirectoryError, WriteError

REPLACED = ".dipair-replaced"
"""The suffix of a folder that is being replaced; no user's folder has it."""


def move_into_place(folder: Path, target: Path) -> None:
    """Renames `folder` to `target`, after its contents are flushed to disk.

    A folder that exists at `target` is deleted only after the rename.
    """
    real, old = Path(os.path.realpath(target)), sibling(target, REPLACED)
    for path in (*folder.rglob("*"), folder):
        sync(path)
    if real.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(real, old)
    os.replace(folder, real)
    sync(real.parent)
    shutil.rmtree(old, ignore_errors=True)


def link(source: str | Path, target: str | Path) -> None:
    """Hard-links `source` to `target`, or copies it if the file system has no hard links.

    Does nothing if there is no file `source`.
    """
    if Path(source).is_file():
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)


def sibling(out: Path, suffix: str) -> Path:
    """Returns the path of `out`, symbolic links resolved, with `suffix` added to its name."""
    # resolved, so that a later move stays on one disk
    real = Path(os.path.realpath(out))
    return real.with_name(real.name + suffix)


def utf8_path(path: str | Path) -> str:
    """Returns the path as a str for libraries that encode paths as UTF-8 in any locale.

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
    """Yields a temporary path, which is renamed to `path` at the end of a block without errors.

    A file at `path` stays until then, and the rename survives a power cut. With `together`, other
    processes may replace the same file at the same time. Raises `WriteError` if the file cannot be
    written.
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
    """Writes `data` to `path` atomically, as `replacing` does; raises `WriteError`."""
    with replacing(path, together=together) as unfinished:
        unfinished.write_bytes(data)


def sync(path: Path) -> None:
    """Flushes a file, or the renames inside a folder, to disk, so that they survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
