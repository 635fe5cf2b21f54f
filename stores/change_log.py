"""The change log of a TensorStore token store: one small object per change."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from dipair_index.errors import StoreError
from dipair_index.stores.id_table import Hashes, IdTable, Integers, hashes_of
from dipair_index.stores.locations import Location
from dipair_index.stores.packed_ids import PackedIds

CHANGES = "log."
"""The prefix of the objects' names."""

_MAGIC = b"dipairch"
_HEADER = struct.Struct("<8sQIII")
_CHECKSUM = struct.Struct("<I")
_READ_AHEAD = 256


@dataclass(frozen=True)
class Change:
    """Keys whose rows begin at `first_row`, and the rows that are deleted."""

    keys: PackedIds
    hashes: Hashes
    first_row: int
    deleted: Integers

    @classmethod
    def from_keys(cls, keys: PackedIds, first_row: int, deleted: Integers) -> Change:
        """Returns a change to write."""
        return cls(keys, hashes_of(keys), first_row, deleted)

    @property
    def rows(self) -> Integers:
        """The row of each key."""
        return np.arange(self.first_row, self.first_row + len(self.hashes))

    def encode(self) -> bytes:
        """Serialises header, hashes, deleted rows, the keys' lengths and text, and the CRC-32."""
        text = self.keys.text
        pieces = [
            _HEADER.pack(_MAGIC, self.first_row, len(self.hashes), len(self.deleted), len(text)),
            self.hashes.astype("<u8").tobytes(),
            self.deleted.astype("<i8").tobytes(),
            self.keys.lengths.astype("<u2").tobytes(),
            text.tobytes(),
        ]
        body = b"".join(pieces)
        return body + _CHECKSUM.pack(zlib.crc32(body))

    @classmethod
    def decode(cls, data: bytes, name: str) -> Change:
        """Reads what `encode` made; raises `StoreError` if the object `name` is damaged."""
        body, checksum = memoryview(data)[: -_CHECKSUM.size], data[-_CHECKSUM.size :]
        if not data.startswith(_MAGIC) or checksum != _CHECKSUM.pack(zlib.crc32(body)):
            raise StoreError(
                f"{name}, which records the positions of passages, is damaged: restore it, or "
                "build the store again"
            )
        _, first_row, count, deleted_count, _ = _HEADER.unpack_from(body)
        at = _HEADER.size
        hashes = np.frombuffer(body, "<u8", count, at)
        deleted = np.frombuffer(body, "<i8", deleted_count, at + 8 * count)
        lengths = np.frombuffer(body, "<u2", count, at + 8 * (count + deleted_count))
        text = np.frombuffer(body, np.uint8, offset=at + 8 * (count + deleted_count) + 2 * count)
        keys = PackedIds(text, np.cumsum(lengths, dtype=np.int64))
        return cls(keys, hashes, first_row, deleted)


class ChangeLog:
    """All changes at a location, in order. Threads may share it.

    `ids` maps each id to its row, and `written` each shard with a live passage to its number of
    rows.
    """

    def __init__(self, location: Location, shard_rows: int) -> None:
        self.ids = IdTable()
        self.written: dict[int, int] = {}
        self.stored_bytes = 0
        self.lock = threading.RLock()
        self._location = location
        self._shard_rows = shard_rows
        self._live: dict[int, int] = {}
        self._count = 0
        numbers = location.numbers(CHANGES)
        # a folder that is written to may be listed with a gap
        self._apply(self._read(range(max(numbers, default=-1) + 1)))

    def commit(self, make: Callable[[], Change]) -> list[int]:
        """Writes the change that `make` returns; returns the shards left without a passage."""
        with self.lock:
            while True:
                absent = self.follow()
                change = make()
                data = change.encode()
                name = _name(self._count)
                written = self._location.store.write(name, data, if_equal=absent).result()
                # no generation if the object existed: written by another writer, or by this one if
                # the response was lost and TensorStore tried again
                if written.generation or self._location.read(name) == data:
                    return self._apply([(change, len(data))])

    def follow(self) -> bytes:
        """Applies other writers' changes; returns the generation of the next, absent object."""
        with self.lock:
            while True:
                name = _name(self._count)
                found = self._location.store.read(name).result()
                if found.state == "missing":
                    absent: bytes = found.stamp.generation
                    return absent
                change = Change.decode(found.value, self._location.name_of(name))
                self._apply([(change, len(found.value))])

    def damage(self) -> list[str]:
        """Reads all changes again; returns a sentence for each that is damaged or missing."""
        found = []
        for number in range(self._count):
            try:
                list(self._read([number]))
            except StoreError as error:
                found.append(str(error))
        return found

    def _read(self, numbers: Iterable[int]) -> Iterator[tuple[Change, int]]:
        names = [_name(number) for number in numbers]
        for start in range(0, len(names), _READ_AHEAD):
            batch = names[start : start + _READ_AHEAD]
            futures = [self._location.store.read(name) for name in batch]
            for name, future in zip(batch, futures, strict=True):
                found = future.result()
                if found.state == "missing":
                    raise StoreError(
                        f"{self._location.name_of(name)}, which records the positions of passages, "
                        "is missing: restore it, or build the store again"
                    )
                change = Change.decode(found.value, self._location.name_of(name))
                yield change, len(found.value)

    def _apply(self, changes: Iterable[tuple[Change, int]]) -> list[int]:
        """Applies changes; returns the shards left without a passage."""
        added = []
        deleted = []
        for change, size in changes:
            self._count += 1
            self.stored_bytes += size
            if len(change.hashes):
                added.append((change.keys, change.hashes, change.rows))
                for start in range(0, len(change.hashes), self._shard_rows):
                    shard = (change.first_row + start) // self._shard_rows
                    count = min(self._shard_rows, len(change.hashes) - start)
                    self.written[shard] = self._live[shard] = count
            deleted.append(change.deleted)
        deleted_rows = np.concatenate(deleted) if deleted else np.empty(0, np.int64)
        self.ids.update(added, deleted_rows)
        empty = []
        shards, counts = np.unique(deleted_rows // self._shard_rows, return_counts=True)
        for shard, count in zip(shards.tolist(), counts.tolist(), strict=True):
            self._live[shard] -= count
            if not self._live[shard]:
                del self._live[shard], self.written[shard]
                empty.append(shard)
        return empty


def _name(number: int) -> str:
    # padded, so that a listing shows the names in order
    return f"{CHANGES}{number:016}"
