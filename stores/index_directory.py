"""The files of an index directory, and the lock of its writer.

    manifest.json      the settings and the list of parts; the only file that is replaced
    parts/000001/      passages that were stored together; never written again
        tokens/ (or tokens.url)  passages/  ann/  lexical/  texts.npy  files.json
        deleted-000002.jsonl
    building/          an unfinished part, not yet in the manifest
    writer.lock        locked by the process that changes the index; contains its description

A change writes new parts beside the existing ones, and then replaces the manifest. So a reader
sees either the old index or the new one, and a crash leaves the old one.
"""

from __future__ import annotations

import fcntl
import os
import platform
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from dipair_index.errors import DirectoryError, StoreError
from dipair_index.files import write_whole
from dipair_index.stores.manifest import MANIFEST, is_manifest


@dataclass(frozen=True)
class PartLayout:
    """The files of a part."""

    root: Path

    @property
    def tokens(self) -> Path:
        """The folder of the token store, unless that is at a URL."""
        return self.root / "tokens"

    @property
    def passages(self) -> Path:
        """The passage store."""
        return self.root / "passages"

    @property
    def ann(self) -> Path:
        """The ANN index over the passages' vectors."""
        return self.root / "ann"

    @property
    def lexical(self) -> Path:
        """The BM25 index of the passages' words, if the index has one."""
        return self.root / "lexical"

    @property
    def texts(self) -> Path:
        """Digests of the passages' texts, by which `TextLookup` finds them; not in older parts."""
        return self.root / "texts.npy"

    @property
    def progress(self) -> Path:
        """The progress of an unfinished part; a finished one has none."""
        return self.root / "progress"

    @property
    def _tokens_url(self) -> Path:
        return self.root / "tokens.url"

    def create(self, store_url: str) -> None:
        """Makes the folder; with a `store_url`, tokens get a location of their own below it."""
        self.root.mkdir(parents=True, exist_ok=True)
        if store_url:
            # written atomically: the data below the URL is deleted with the part
            write_whole(self._tokens_url, f"{store_url.rstrip('/')}/{uuid4().hex}".encode())

    def tokens_location(self) -> str | Path:
        """The URL or the folder of the token store."""
        if self._tokens_url.is_file():
            return self._tokens_url.read_text("utf-8")
        return self.tokens


@dataclass(frozen=True)
class Layout:
    """The files of an index directory."""

    root: Path

    @property
    def manifest(self) -> Path:
        """The manifest, written last."""
        return self.root / MANIFEST

    @property
    def parts(self) -> Path:
        """The folder of all parts."""
        return self.root / "parts"

    @property
    def building(self) -> PartLayout:
        """The unfinished part."""
        return PartLayout(self.root / "building")

    @property
    def merging(self) -> PartLayout:
        """The part that parts are copied into."""
        return PartLayout(self.root / "merging")

    @property
    def writer_lock(self) -> Path:
        """The file that a writer locks."""
        return self.root / "writer.lock"

    def part(self, name: str) -> PartLayout:
        """The part that the manifest calls `name`."""
        return PartLayout(self.parts / name)

    def is_finished(self) -> bool:
        """Returns whether there is a manifest of an index."""
        return is_manifest(self.manifest)

    def holds_parts(self) -> bool:
        """Returns whether there are finished parts, even if the manifest was lost."""
        found = self.parts.iterdir() if self.parts.is_dir() else ()
        return any(not PartLayout(root).progress.exists() for root in found)

    def is_ours(self) -> bool:
        """Returns whether this is an index, even an unfinished or damaged one."""
        known = {"manifest.json.tmp"} | {
            path.name
            for path in (
                self.manifest, self.parts, self.building.root, self.merging.root, self.writer_lock
            )
        }  # fmt: skip
        if self.is_finished():
            return True
        try:
            names = set(os.listdir(self.root))
        except OSError:
            return False
        # the lock is the first file that a writer creates
        return self.writer_lock.name in names and names <= known


def check_target(target: str | Path, *, overwrite: bool) -> None:
    """Raises `DirectoryError` if an index cannot be built at `target`.

    It can be built in an absent or empty directory, or in place of an unfinished index; with
    `overwrite`, in place of any index. Nothing but an index is ever overwritten.
    """
    target = Path(target)
    layout = Layout(target)
    # repeated, since another process may create or remove the directory between the two checks
    if not any(_is_free(target) or layout.is_ours() for _ in range(3)):
        raise DirectoryError(
            f"{target} exists and is not an index, so it will not be overwritten: "
            "choose another --index-dir"
        )
    if (layout.manifest.exists() or layout.holds_parts()) and not overwrite:
        raise DirectoryError(
            f"there is an index at {target} already: pass --overwrite to replace it, or choose "
            "another --index-dir"
        )


def _is_free(target: Path) -> bool:
    """Returns whether the path is absent, or an empty directory."""
    try:
        return not os.listdir(target)
    except OSError:
        return not os.path.lexists(target)


class WriterLock:
    """The lock of the process that changes an index; it is released when that process ends.

    Raises `DirectoryError` if another process holds it, and `StoreError` if the directory cannot
    be written.
    """

    def __init__(self, root: Path) -> None:
        file = Layout(root).writer_lock
        try:
            self._handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError as error:
            raise _removed(root) from error
        except OSError as error:
            raise StoreError(
                f"{root} cannot be changed: {error.strerror or error}. It can still be read"
            ) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(self._handle).st_nlink:
                self.release()
                raise _removed(root)
            os.truncate(self._handle, 0)
            os.write(self._handle, f"{_signature()}\n".encode(errors="backslashreplace"))
        except BlockingIOError as error:
            # by its handle, since the name may have been removed already
            first = os.pread(self._handle, 1000, 0).decode(errors="replace").strip()
            self.release()
            raise DirectoryError(
                f"{root} is being changed by {first or 'another process'}: let it end, then run "
                "this again"
            ) from error
        except OSError as error:
            self.release()
            raise StoreError(
                f"{root} cannot be changed: {error.strerror or error}. It can still be read"
            ) from error

    def release(self) -> None:
        """Lets another process write; releasing twice is fine."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _removed(root: Path) -> DirectoryError:
    return DirectoryError(f"{root} was removed at this moment: run this again")


def _signature() -> str:
    """Describes the process that holds the lock."""
    command = " ".join((Path(sys.argv[0] or "python").name, *sys.argv[1:2]))
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return f"process {os.getpid()} on {platform.node()} ({command}, since {since})"
