"""The folder of a match's output, on a disk or in a bucket.

    manifest.json            model, indexes and settings; `finished` once all blocks are there
    scores-00000000.parquet  left, right, score: one file a block, or a row of merged blocks
    part-00000000.parquet    a block that is still to be merged with others
    writer.lock              held by the process that runs the match, on a disk

A file appears only when it is whole, so a block whose file is there is done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from dipair_index.errors import DirectoryError
from dipair_index.files import unwritable
from dipair_index.formats.places import Place
from dipair_index.formats.tables import damaged_table, table_bytes
from dipair_index.stores.index_directory import Layout, WriterLock
from dipair_index.stores.manifest import MANIFEST

KIND = "dipair-index match"
_FILE = re.compile(r"(scores|part)-(\d{8,})\.parquet")
_UNFINISHED = re.compile(rf"({_FILE.pattern}|{re.escape(MANIFEST)})\.[0-9a-f]{{32}}\.tmp")
_NAMES = ("model", "left.index", "right.index", "pairs", "finished")
"""The entries of a manifest that may differ in a run that goes on: digests stand beside them."""


class Done(NamedTuple):
    """The numbers of the outputs and of the parts that are there."""

    scores: set[int]
    parts: set[int]


class OutputFolder:
    """Writes the files of a match, and knows which of them are there.

    One process runs the match; others may write blocks for it.
    """

    def __init__(self, location: str | Path) -> None:
        self.place = Place(location)

    @contextmanager
    def running(self, manifest: Mapping[str, Any], *, overwrite: bool) -> Iterator[None]:
        """Begins or continues the match that `manifest` describes; marks its end.

        Raises `DirectoryError` if the folder holds something else, or another match and
        `overwrite` is false, or if another process runs it; `WriteError` if it cannot be written.
        """
        with self._locked():
            self._begin(manifest, overwrite)
            yield
            self._delete(_UNFINISHED)
            self._write_manifest(manifest, finished=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if (folder := self.place.folder) is None:
            yield
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        lock = WriterLock(folder)
        try:
            yield
        finally:
            with suppress(OSError):
                Layout(folder).writer_lock.unlink()
            lock.release()

    def _begin(self, manifest: Mapping[str, Any], overwrite: bool) -> None:
        names = self._names()
        known = MANIFEST in names
        strange = [name for name in names if not _is_of_a_match(name, known)]
        if strange:
            raise DirectoryError(
                f"{self.place.name} holds files that no match has written, such as {strange[0]}: "
                "choose another --out"
            )
        difference = _difference(self._manifest(), manifest) if known else ""
        if difference and not overwrite:
            raise DirectoryError(
                f"{self.place.name} holds another match, {difference}: choose another --out, "
                "give the same settings to go on with it, or pass --overwrite to replace it"
            )
        self._delete(_UNFINISHED)
        if difference:
            # the manifest last: until then, what is left is of the match before
            self._delete(_FILE)
        if difference or not known:
            self._write_manifest(manifest, finished=False)

    def done(self) -> Done:
        """Returns the numbers of the files that are there."""
        done = Done(set(), set())
        for name in self._names():
            if found := _FILE.fullmatch(name):
                (done.scores if found[1] == "scores" else done.parts).add(int(found[2]))
        return done

    def holds(self, kind: str, number: int) -> bool:
        """Returns whether the file of "scores" or a "part" is there."""
        return self.place.exists(_name(kind, number))

    def write(self, kind: str, number: int, table: pa.Table) -> None:
        """Writes "scores" or a "part"; raises `WriteError`."""
        self.place.write(_name(kind, number), table_bytes(table))

    def read_part(self, number: int) -> pa.Table:
        """Returns a part; raises `FormatError` if it is damaged."""
        name = _name("part", number)
        data = self.place.read(name)
        try:
            return pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise damaged_table(self.place.name_of(name), error) from error

    def delete_parts(self, numbers: Iterable[int]) -> None:
        """Deletes parts that have been merged."""
        self.place.delete(_name("part", number) for number in numbers)

    def _names(self) -> list[str]:
        return list(self.place.sizes(absent_ok=True))

    def _delete(self, pattern: re.Pattern[str]) -> None:
        self.place.delete(name for name in self._names() if pattern.fullmatch(name))

    def _manifest(self) -> dict[str, Any]:
        data = self.place.read(MANIFEST)
        try:
            found: dict[str, Any] = json.loads(data)
            if found["kind"] == KIND:
                return found
        except (ValueError, TypeError, KeyError):
            pass
        raise DirectoryError(
            f"{self.place.name} holds a {MANIFEST} of something else than a match: choose another "
            "--out"
        )

    def _write_manifest(self, manifest: Mapping[str, Any], *, finished: bool) -> None:
        values = {"kind": KIND, **manifest, "finished": finished}
        self.place.write(MANIFEST, f"{json.dumps(values, indent=2)}\n".encode())


def _name(kind: str, number: int) -> str:
    return f"{kind}-{number:08d}.parquet"


def _is_of_a_match(name: str, begun: bool) -> bool:
    """Returns whether a match may have written a file; before it has begun, only some."""
    first = name == Layout(Path()).writer_lock.name or _UNFINISHED.fullmatch(name)
    return bool(first) or (begun and (name == MANIFEST or bool(_FILE.fullmatch(name))))


def _difference(begun: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Returns in words how a match that was begun differs from the one that is asked for."""
    before, now = _flat(begun), _flat({"kind": KIND, **asked})
    for name in [*now, *before]:
        if name not in _NAMES and before.get(name) != now.get(name):
            words = name.replace(".", " ").replace("_", " ")
            return f"whose {words} is {before.get(name)} and not {now.get(name)}"
    return ""


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}.{inner}": each for inner, each in value.items()})
        else:
            flat[name] = value
    return flat
