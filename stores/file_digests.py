"""Digests of the files of a part, so that a single changed byte is found and named."""

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
    """Writes `files.json` over all files in `folder`, all on disk when it returns.

    `leaving_out` names entries of `folder` that do not belong to it. Returns the digest of
    `files.json` itself.
    """
    digests = {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "blocks": _blocks(file)}
        for file in _files(folder)
        if file.relative_to(folder).parts[0] not in (FILES, *leaving_out)
    }
    data = json.dumps(digests, indent=1).encode()
    (folder / FILES).write_bytes(data)
    for place in (*_files(folder), *(path for path in folder.rglob("*") if path.is_dir()), folder):
        sync(place)
    return checksum(data)


def damages(
    folder: Path,
    files_digest: str,
    *,
    known: Sequence[str] = (),
    report: Callable[[int], None] = lambda count: None,
) -> Iterator[str]:
    """Yields a sentence for each file that is not what `seal` saw: changed, missing or new.

    Files like the patterns `known` came later, and are looked after elsewhere. `report` is told
    how many bytes were read, each time some were.
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
            yield f"{file} is no file of the index: move it away"


def check_sizes(folder: Path, files_digest: str) -> None:
    """Raises `StoreError` if a file does not have the size that `seal` saw.

    Where a copy was cut short, the system would end a process that reads it by a memory map.
    """
    try:
        for name, expected in _sealed(folder, files_digest).items():
            file = folder / name
            # whoever needs one that is missing says so
            if file.exists() and (found := file.stat().st_size) != expected["bytes"]:
                raise StoreError(_other_size(file, found, expected["bytes"]))
    except StoreError as error:
        raise StoreError(
            f"{error}. Restore it from a copy, or build the index again with --overwrite"
        ) from error


def _sealed(folder: Path, files_digest: str) -> dict[str, Any]:
    """Reads `files.json`; raises `StoreError` if it is not what was written."""
    file = folder / FILES
    try:
        data = file.read_bytes()
    except OSError as error:
        raise StoreError(_unreadable(file, error)) from error
    if checksum(data) != files_digest:
        raise StoreError(f"{file} is not what was written: which files are whole cannot be told")
    digests: dict[str, Any] = json.loads(data)
    return digests


def _other_size(file: Path, found: int, written: int) -> str:
    return f"{file} has {counted(found, 'byte')}, {written:,} were written"


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
    """Reads a file of JSON strings; raises `StoreError` if it is not what was written."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {file}: {error.strerror or error}") from error
    if checksum(data) != digest:
        raise StoreError(f"{file} is not what was written: restore it or build the index again")
    return [json.loads(line) for line in data.splitlines()]
