"""The record formats of the LMDB token store, and their verification."""

from __future__ import annotations

import json
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap
from operator import add
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from dipair_index.errors import StoreError
from dipair_index.stores.codecs import Codec
from dipair_index.stores.environment import Environment
from dipair_index.words import listed

_FORMAT = 2
_SETTINGS = b"token_store"
DATABASES = ("settings", "segments", "rows", "live")
NEXT = b"next_segment"

POSITION = np.dtype([("block", "<u4"), ("row", "<u2")])
"""The position of a passage: the value of its id in `rows`."""

_LIVE = struct.Struct("<III")


def ensure_settings(environment: Environment, codec: Codec) -> None:
    """Writes the settings of a new store, or checks those of an existing one.

    Raises `StoreError` if they differ from the codec's, are damaged, or are of another format.
    """
    asked = {
        "format": _FORMAT,
        "codec": codec.name,
        "tokens_per_passage": codec.tokens_per_passage,
        "dim": codec.dim,
    }
    database = environment.databases["settings"]

    def read(txn: Any) -> bytes | None:
        value = txn.get(_SETTINGS, db=database)
        return None if value is None else bytes(value)

    stored = environment.read(read)
    if stored is None and not environment.readonly:
        value = json.dumps(asked).encode()
        environment.write(lambda txn: txn.put(_SETTINGS, value, db=database))
    elif stored is None:
        raise StoreError(f"the store at {environment.path} is unfinished: build it again")
    elif (made := _settings(environment, stored)) != asked:
        raise StoreError(
            f"the store at {environment.path} holds {_words(made)}, but {_words(asked)} was "
            "asked for: open it with its own settings, or build another"
        )


def _settings(environment: Environment, stored: bytes) -> dict[str, Any]:
    try:
        # the first format does not name its number
        settings = {"format": 1, **json.loads(stored)}
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"the settings of the store at {environment.path} are damaged: build it again"
        ) from error
    if settings["format"] != _FORMAT:
        raise StoreError(
            f"the store at {environment.path} has format {settings['format']}, but this version of "
            f"dipair-index reads format {_FORMAT}: use the version that wrote it, or build it again"
        )
    return settings


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items() if name != "format")


class Live(NamedTuple):
    """The value of a block in `live`: number and sum of its ids, and a checksum of its bytes.

    The sum is that of crc32(id + position) over its ids, modulo 2**32, so that damage to an id or a
    position is found.
    """

    ids: int
    sum: int
    checksum: int = 0

    @classmethod
    def from_entries(cls, entries: Sequence[tuple[bytes, bytes]], value: bytes = b"") -> Live:
        """Summarises keys with their positions, and a block's bytes."""
        marks = map(crc32, starmap(add, entries))
        return cls(len(entries), sum(marks) % 2**32, crc32(value))

    @classmethod
    def read(cls, txn: Any, databases: Mapping[str, Any], block: int) -> Live | None:
        """Returns the value of a block; None if there is none, or if it has another length."""
        value = txn.get(block_key(block), db=databases["live"])
        return cls(*_LIVE.unpack(value)) if value and len(value) == _LIVE.size else None

    def without(self, others: Live) -> Live:
        """Returns the value without some of the ids."""
        return Live(self.ids - others.ids, (self.sum - others.sum) % 2**32, self.checksum)

    def packed(self) -> bytes:
        """Serialises for `read`."""
        return _LIVE.pack(*self)


def block_key(block: int) -> bytes:
    """Returns the key of a block in `segments` and `live`."""
    # big-endian, so that LMDB's order is the order of numbers
    return block.to_bytes(4, "big")


def block_of(position: bytes) -> int:
    """Returns the block of a position."""
    return int.from_bytes(position[:4], "little")


def next_block(txn: Any, databases: Mapping[str, Any]) -> int:
    """Returns the number of the next block to be written, higher than any before."""
    return int.from_bytes(txn.get(NEXT, default=b"", db=databases["settings"]), "little")


def damage(txn: Any, databases: Mapping[str, Any], bytes_per_passage: int) -> Iterator[str]:
    """Reads the whole store; yields a sentence for each damaged block, which names its passages."""
    lost = []
    ids: Counter[int] = Counter()
    sums: Counter[int] = Counter()
    needed: Counter[int] = Counter()
    for key, position in _items(txn, databases["rows"]):
        # where the pages above are damaged, walking finds an id, but looking it up does not
        if len(position) != POSITION.itemsize or txn.get(key, db=databases["rows"]) != position:
            lost.append(_shown(key))
            continue
        block, row = block_of(position), int.from_bytes(position[4:], "little")
        ids[block] += 1
        sums[block] += crc32(key + position)
        needed[block] = max(needed[block], (row + 1) * bytes_per_passage)
    if lost:
        yield f"cannot look up {listed(lost)}: their positions are damaged"

    wrong = {}
    for block in sorted({*ids, *_stored(txn, databases)}):
        live = Live.read(txn, databases, block)
        value = txn.get(block_key(block), db=databases["segments"])
        if value is None or live is None:
            wrong[block] = "is missing" if value is None else "has no record of its ids"
        elif crc32(value) != live.checksum or len(value) < needed[block]:
            wrong[block] = "has other bytes than were stored"
        elif (ids[block], sums[block] % 2**32) != (live.ids, live.sum):
            wrong[block] = "has other passages than were stored"
    holding = defaultdict(list)
    for key, position in _items(txn, databases["rows"]) if wrong else ():
        holding[block_of(position)].append(_shown(key))
    for block, why in wrong.items():
        yield f"block {block} {why}: it holds {listed(holding[block]) or 'no passage'}"

    if next_block(txn, databases) <= max(_stored(txn, databases), default=-1):
        yield "the number of the next block is damaged: put nothing into this store"


def _items(txn: Any, database: Any) -> Iterator[tuple[bytes, bytes]]:
    with txn.cursor(database) as cursor:
        for key, value in cursor:
            yield bytes(key), bytes(value)


def _stored(txn: Any, databases: Mapping[str, Any]) -> Iterator[int]:
    """Yields the numbers of the blocks in `segments` and `live`."""
    for name in ("segments", "live"):
        with txn.cursor(databases[name]) as cursor:
            for key in cursor.iternext(values=False):
                yield int.from_bytes(key, "big")


def _shown(key: bytes) -> str:
    # a damaged id may not be UTF-8 any more
    return key.decode(errors="backslashreplace")
