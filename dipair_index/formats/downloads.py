"""Downloads large files from mirrors: resumable, verified, and renamed once complete."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from dipair_index.errors import DownloadError
from dipair_index.files import unwritable

CHUNK = 1 << 20
SILENCE = 30.0
"""Seconds without a byte after which a mirror counts as broken."""
# Azure's blob storage honours ranges only for requests that name a version of its interface.
HEADERS = {"User-Agent": "dipair-index", "X-Ms-Version": "2019-12-12"}


@dataclass(frozen=True)
class RemoteFile:
    """A file that several mirrors hold, all with the same bytes."""

    name: str
    size: int
    md5: str
    mirrors: tuple[str, ...]


def fetch(
    file: RemoteFile, folder: Path, report: Callable[[int], None] = lambda count: None
) -> Path:
    """Returns `folder/file.name`, downloaded unless it is there; reports bytes so far.

    What arrived stays in a `.part` file, which the next mirror or the next call resumes. Raises
    `DownloadError` if no mirror gives the whole file, `WriteError` if it cannot be written.
    """
    target = folder / file.name
    if target.is_file() and target.stat().st_size == file.size:
        return target
    try:
        part = folder / f"{file.name}.part"
        failures = []
        for mirror in file.mirrors:
            failure = _fetch_from(mirror, file, part, report)
            if failure is None:
                os.replace(part, target)
                return target
            failures.append(f"{urlsplit(mirror).netloc}: {failure}")
    except OSError as error:  # the network's own errors are told apart in _receive
        raise unwritable(target, error) from error
    raise DownloadError(f"{file.name} could not be downloaded ({'; '.join(failures)})")


def _fetch_from(
    mirror: str, file: RemoteFile, part: Path, report: Callable[[int], None]
) -> str | None:
    """Completes `part` from one mirror; returns why it could not."""
    failure: str | None = None
    while True:
        before = part.stat().st_size if part.exists() else 0
        if before < file.size:
            failure = _receive(mirror, part, before, report)
        after = part.stat().st_size if part.exists() else 0
        if after >= file.size:
            break
        if after <= before:  # a broken connection is tried again as long as bytes arrive
            return failure or f"ended after {after:,} of {file.size:,} bytes"
    digest = hashlib.md5(usedforsecurity=False)
    with open(part, "rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() == file.md5:
        return None
    part.unlink()
    return f"sent a file with MD5 {digest.hexdigest()}, expected {file.md5}"


def _receive(mirror: str, part: Path, start: int, report: Callable[[int], None]) -> str | None:
    """Appends to `part` what the mirror sends from byte `start` on; returns what went wrong."""
    request = urllib.request.Request(mirror, headers={**HEADERS, "Range": f"bytes={start}-"})
    try:
        response = urllib.request.urlopen(request, timeout=SILENCE)
    except (OSError, HTTPException) as error:
        return str(getattr(error, "reason", "") or error) or type(error).__name__
    with response:
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        part.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "ab" if resumed else "wb") as target:
            while True:
                try:
                    chunk = response.read(CHUNK)
                except (OSError, HTTPException) as error:
                    return str(error) or type(error).__name__
                if not chunk:
                    return None
                target.write(chunk)
                report(target.tell())
