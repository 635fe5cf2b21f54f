"""Digests of the files of a part, by which `verify` finds any changed byte."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from dipair_index.digests import checksum
from dipair_index.errors import StoreError
from dipair_index.files import sync
from dipair_index.words import counted

FILES = "files.json"
BLOCK_BYTES = 4 * 2**20
"""Damage is located to a block of this many bytes."""


def seal(folder: Path, *, leaving_out: Sequence[str] = ()) -> str:
    """Writes the digests of all files in `folder` to `files.json`, and flushes all to disk.

    Entries of `folder` named in `leaving_out` are skipped. Returns the digest of `files.json`.
    """
    digests = {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "blocks": _blocks(file)}
        for file in _files(folder)
        if file.relative_to(folder).parts[0] not in (FILES, *leaving_out)
    }
    data = json.dumps(digests, indent=1).encode()
    (folder / FILES).write_bytes(data)
    for path in (*folder.rglob("*"), folder):
        sync(path)
    return checksum(data)


def damages(
    folder: Path,
    files_digest: str,
    *,
    known: Sequence[str] = (),
    report: Callable[[int], None] = lambda count: None,
) -> Iterator[str]:
    """Yields a sentence for each file that was changed, removed or added since `seal`.

    Added files that match the patterns in `known` are accepted. `report` is called with the number
    of bytes after each block that is read.
    """
    try:
        digests = _sealed(folder, files_digest)
    except StoreError as error:
        yield str(error)
        return
    for name, expected in digests.items():
        yield from _damages_of(folder / name, expected["bytes"], expected["blocks"], report)
    for file in _files(folder):
        name = str(file.relative_to(folder))
        if name not in digests and not any(fnmatch(name, each) for each in (FILES, *known)):
            yield f"{file} does not belong to the index: move it away"


def check_sizes(folder: Path, files_digest: str) -> None:
    """Raises `StoreError` if a file does not have the size that it had at `seal`.

    The operating system would end a process that reads past the end of a truncated file by a
    memory map.
    """
    try:
        for name, expected in _sealed(folder, files_digest).items():
            file = folder / name
            # a missing file is reported when it is opened
            if file.exists() and (found := file.stat().st_size) != expected["bytes"]:
                raise StoreError(_other_size(file, found, expected["bytes"]))
    except StoreError as error:
        raise StoreError(
            f"{error}. Restore it from a copy, or build the index again with --overwrite"
        ) from error


def _sealed(folder: Path, files_digest: str) -> dict[str, Any]:
    """Reads `files.json`; raises `StoreError` if it is absent or damaged."""
    file = folder / FILES
    try:
        data = file.read_bytes()
    except OSError as error:
        raise StoreError(_unreadable(file, error)) from error
    if checksum(data) != files_digest:
        raise StoreError(
            f"{file} is not what was written: which other files are damaged cannot be found out"
        )
    digests: dict[str, Any] = json.loads(data)
    return digests


def _other_size(file: Path, found: int, written: int) -> str:
    return f"{file} has {counted(found, 'byte')} instead of {written:,}"


def _unreadable(file: Path, error: OSError) -> str:
    return f"{file} cannot be read: {error.strerror or error}"


def _damages_of(
    file: Path, size: int, blocks: list[str], report: Callable[[int], None]
) -> Iterator[str]:
    try:
        found = file.stat().st_size
        if found != size:
            yield _other_size(file, found, size)
        for number, digest in enumerate(_blocks(file, report)[: len(blocks)]):
            if digest != blocks[number]:
                first = number * BLOCK_BYTES
                last = min(first + BLOCK_BYTES, size) - 1
                yield f"{file} is not what was written between bytes {first:,} and {last:,}"
    except OSError as error:
        yield _unreadable(file, error)


def _blocks(file: Path, report: Callable[[int], None] = lambda count: None) -> list[str]:
    digests = []
    with file.open("rb") as source:
        while block := source.read(BLOCK_BYTES):
            digests.append(checksum(block))
            report(len(block))
    return digests


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def read_lines(file: Path, digest: str) -> list[str]:
    """Reads a file of JSON strings, one per line; raises `StoreError` if it is damaged."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {file}: {error.strerror or error}") from error
    if checksum(data) != digest:
        raise StoreError(f"{file} is not what was written: restore it or build the index again")
    return [json.loads(line) for line in data.splitlines()]
