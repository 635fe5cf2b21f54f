"""What stands in the databases of an LMDB token store, and whether it is whole."""

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

PLACE = np.dtype([("segment", "<u4"), ("row", "<u2")])
"""Where a passage is: what `rows` holds for its id."""

_LIVE = struct.Struct("<III")


def settle(environment: Environment, codec: Codec) -> None:
    """Writes the settings of a new store; refuses a store that has others."""
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
        # the first format did not tell its number
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
    """What `live` holds for a segment: its ids (their number and a sum), a checksum of its bytes.

    With an id, or the place that it has, the sum changes: so damage to both is found as well.
    """

    ids: int
    sum: int
    checksum: int = 0

    @classmethod
    def of(cls, placed: Sequence[tuple[bytes, bytes]], value: bytes = b"") -> Live:
        """Of keys with their places, and a segment's bytes."""
        marks = map(crc32, starmap(add, placed))
        return cls(len(placed), sum(marks) % 2**32, crc32(value))

    @classmethod
    def read(cls, txn: Any, databases: Mapping[str, Any], segment: int) -> Live | None:
        """Of a stored segment; None where nothing of this form is."""
        value = txn.get(segment_key(segment), db=databases["live"])
        return cls(*_LIVE.unpack(value)) if value and len(value) == _LIVE.size else None

    def without(self, others: Live) -> Live:
        """After some of the ids have left."""
        return Live(self.ids - others.ids, (self.sum - others.sum) % 2**32, self.checksum)

    def packed(self) -> bytes:
        """As `read` takes it."""
        return _LIVE.pack(*self)


def segment_key(segment: int) -> bytes:
    """The key of a segment in `segments` and `live`."""
    # big-endian, so that LMDB's order is the order of numbers
    return segment.to_bytes(4, "big")


def segment_of(place: bytes) -> int:
    """The segment of a place."""
    return int.from_bytes(place[:4], "little")


def next_segment(txn: Any, databases: Mapping[str, Any]) -> int:
    """The number of the next segment to be written, higher than any ever was."""
    return int.from_bytes(txn.get(NEXT, default=b"", db=databases["settings"]), "little")


def damage(txn: Any, databases: Mapping[str, Any], bytes_per_passage: int) -> Iterator[str]:
    """Reads everything: a sentence for each damaged segment, naming the passages in it."""
    lost = []
    ids: Counter[int] = Counter()
    sums: Counter[int] = Counter()
    needed: Counter[int] = Counter()
    for key, place in _items(txn, databases["rows"]):
        # where the pages above are damaged, walking finds an id, but looking it up does not
        if len(place) != PLACE.itemsize or txn.get(key, db=databases["rows"]) != place:
            lost.append(_shown(key))
            continue
        segment, row = segment_of(place), int.from_bytes(place[4:], "little")
        ids[segment] += 1
        sums[segment] += crc32(key + place)
        needed[segment] = max(needed[segment], (row + 1) * bytes_per_passage)
    if lost:
        yield f"cannot look up {listed(lost)}: their places are damaged"

    wrong = {}
    for segment in sorted({*ids, *_stored(txn, databases)}):
        live = Live.read(txn, databases, segment)
        value = txn.get(segment_key(segment), db=databases["segments"])
        if value is None or live is None:
            wrong[segment] = "is missing" if value is None else "is not accounted for"
        elif crc32(value) != live.checksum or len(value) < needed[segment]:
            wrong[segment] = "has other bytes than were stored"
        elif (ids[segment], sums[segment] % 2**32) != (live.ids, live.sum):
            wrong[segment] = "has other passages than were stored"
    holding = defaultdict(list)
    for key, place in _items(txn, databases["rows"]) if wrong else ():
        holding[segment_of(place)].append(_shown(key))
    for segment, why in wrong.items():
        yield f"segment {segment} {why}: it holds {listed(holding[segment]) or 'no passage'}"

    if next_segment(txn, databases) <= max(_stored(txn, databases), default=-1):
        yield "the number of the next segment is damaged: put nothing into this store"


def _items(txn: Any, database: Any) -> Iterator[tuple[bytes, bytes]]:
    with txn.cursor(database) as cursor:
        for key, value in cursor:
            yield bytes(key), bytes(value)


def _stored(txn: Any, databases: Mapping[str, Any]) -> Iterator[int]:
    """The numbers in `segments` and `live`."""
    for name in ("segments", "live"):
        with txn.cursor(databases[name]) as cursor:
            for key in cursor.iternext(values=False):
                yield int.from_bytes(key, "big")


def _shown(key: bytes) -> str:
    # a damaged id may be no text any more
    return key.decode(errors="backslashreplace")
