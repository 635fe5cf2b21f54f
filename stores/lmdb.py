"""Token embeddings in LMDB, packed: many passages in one large value.

A value over 2 KB would take whole pages of its own, and double the disk. So `segments` holds
rows of encoded tokens side by side, `rows` holds for each id its segment and row, and `live`
counts the rows of each segment that an id still points to: a segment without any is dropped.
A gather reads its segments as views of the memory map, one `take` each.

A segment is written once and its number is never used again. So where a segment stands in the
map is remembered: as long as an id points to it, LMDB leaves its own pages alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dipair_index.errors import MissingPassagesError, StoreError
from dipair_index.records import FloatArray
from dipair_index.stores.codecs import Codec, Rows, open_codec
from dipair_index.stores.environment import Environment, lookup_key
from dipair_index.stores.token_store import checked_keys, checked_tokens

SEGMENT_BYTES = 64 * 4096 - 16
"""Whole pages less LMDB's page header. py-lmdb reads a byte of each page of a value it hands out:
with larger segments a first read would fetch far more from the disk than was asked for."""

_NEXT = b"next_segment"
_DATABASES = ("settings", "segments", "rows", "live")
_ROW_BITS = 32
_SEGMENTS_REMEMBERED = 65_536


class LmdbTokenStore:
    """A token store in one LMDB folder: one writer, many readers, any thread.

    Put in large batches: each call starts a new segment, and ends on a page of its own.
    """

    def __init__(self, environment: Environment, codec: Codec) -> None:
        self.codec = codec
        self._env = environment
        self._db = environment.databases
        self._views: dict[int, Rows] = {}
        self._views_generation = environment.generation

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        tokens_per_passage: int,
        dim: int,
        codec: str,
        readonly: bool = False,
        map_bytes: int | None = None,
    ) -> LmdbTokenStore:
        """Opens the folder `path`; creates it where it is absent, unless `readonly`.

        StoreError where there is nothing to read, where it was made with other settings, and
        where LMDB cannot open it. `map_bytes` is the size of the map to start from; it grows.
        """
        chosen = open_codec(codec, tokens_per_passage=tokens_per_passage, dim=dim)
        environment = Environment(Path(path), _DATABASES, readonly=readonly, map_bytes=map_bytes)
        try:
            _settle(environment, chosen)
        except BaseException:
            environment.close()
            raise
        return cls(environment, chosen)

    def put(self, ids: Sequence[str], tokens: FloatArray) -> None:
        """Stores tokens (len(ids), tokens_per_passage, dim); an id put again is replaced."""
        keys = checked_keys(ids)
        tokens = checked_tokens(ids, tokens, self.codec)
        # of an id that stands twice in the batch, the last counts
        last = {key: place for place, key in enumerate(keys)}
        if len(last) < len(keys):
            tokens = tokens[list(last.values())]
        rows = self.codec.encode(tokens)
        if len(rows):
            self._env.write(
                lambda txn: self._write(txn, list(last), rows), bytes_needed=2 * rows.nbytes
            )

    def _write(self, txn: Any, keys: Sequence[bytes], rows: Rows) -> None:
        self._release(txn, [at for at in self._places(txn, keys) if at is not None])
        segment = int.from_bytes(txn.get(_NEXT, default=b"", db=self._db["settings"]), "little")
        per_segment = max(1, SEGMENT_BYTES // self.codec.bytes_per_passage)
        for start in range(0, len(rows), per_segment):
            part = rows[start : start + per_segment]
            name = _segment_key(segment)
            txn.put(name, part.data.cast("B"), db=self._db["segments"])
            txn.put(name, len(part).to_bytes(4, "little"), db=self._db["live"])
            first = segment << _ROW_BITS
            for row, key in enumerate(keys[start : start + per_segment]):
                txn.put(key, (first + row).to_bytes(8, "little"), db=self._db["rows"])
            segment += 1
        txn.put(_NEXT, segment.to_bytes(4, "little"), db=self._db["settings"])

    def get(self, ids: Sequence[str]) -> FloatArray:
        """Tokens (len(ids), tokens_per_passage, dim) in the order asked; ids may repeat."""
        keys = [lookup_key(passage_id) for passage_id in ids]
        return self.codec.decode(self._env.read(lambda txn: self._gather(txn, ids, keys)))

    def _gather(self, txn: Any, ids: Sequence[str], keys: Sequence[bytes | None]) -> Rows:
        found = self._places(txn, keys)
        _refuse_missing(ids, found)
        places = np.frombuffer(b"".join(found), "<u8")  # type: ignore[arg-type]
        order = np.argsort(places)
        places = places[order]
        segments = (places >> _ROW_BITS).astype(np.intp)
        rows = (places & (2**_ROW_BITS - 1)).astype(np.intp)
        starts = np.flatnonzero(np.diff(segments, prepend=-1))
        ends = [*starts[1:].tolist(), len(places)]
        gathered = np.empty((len(places), self.codec.bytes_per_passage), np.uint8)
        self._forget_old_views()
        for start, end, segment in zip(
            starts.tolist(), ends, segments[starts].tolist(), strict=False
        ):
            view = self._views.get(segment)
            if view is None:
                view = self._segment(txn, segment)
            # "clip" lets numpy write into `out` without a copy of its own
            view.take(rows[start:end], axis=0, out=gathered[start:end], mode="clip")
        back = np.empty(len(order), np.intp)
        back[order] = np.arange(len(order))
        return gathered.take(back, axis=0)

    def _segment(self, txn: Any, segment: int) -> Rows:
        """A view (rows, bytes_per_passage) of the memory map, remembered where it stays.

        A value smaller than a page may lie among others, and moves with them.
        """
        value = txn.get(_segment_key(segment), db=self._db["segments"])
        if value is None or len(value) % self.codec.bytes_per_passage:
            raise StoreError(f"{self._env.path} is damaged: a segment is missing; build it again")
        view = np.frombuffer(value, np.uint8).reshape(-1, self.codec.bytes_per_passage)
        if len(value) >= self._env.page_bytes:
            self._views[segment] = view
        return view

    def _forget_old_views(self) -> None:
        """Views are of a map that is gone once it has grown; and there may be very many."""
        grown = self._views_generation != self._env.generation
        if grown or len(self._views) > _SEGMENTS_REMEMBERED:
            self._views.clear()
            self._views_generation = self._env.generation

    def delete(self, ids: Sequence[str]) -> None:
        """Forgets `ids`; where one is absent, MissingPassagesError, and nothing is deleted."""
        unique = list(dict.fromkeys(ids))

        def work(txn: Any) -> None:
            keys = [lookup_key(passage_id) for passage_id in unique]
            found = self._places(txn, keys)
            _refuse_missing(unique, found)
            self._release(txn, [at for at in found if at is not None])
            for key in keys:
                txn.delete(key, db=self._db["rows"])

        self._env.write(work)

    def _places(self, txn: Any, keys: Sequence[bytes | None]) -> list[memoryview | None]:
        rows = self._db["rows"]
        return [None if key is None else txn.get(key, db=rows) for key in keys]

    def _release(self, txn: Any, places: Sequence[memoryview]) -> None:
        """Counts rows that no id points to any more; drops segments that have no other."""
        gone = Counter(int.from_bytes(at, "little") >> _ROW_BITS for at in places)
        for segment, count in gone.items():
            key = _segment_key(segment)
            left = int.from_bytes(txn.get(key, db=self._db["live"]), "little") - count
            if left:
                txn.put(key, left.to_bytes(4, "little"), db=self._db["live"])
            else:
                txn.delete(key, db=self._db["live"])
                txn.delete(key, db=self._db["segments"])

    def close(self) -> None:
        """Closes the files; closing twice is fine."""
        self._views.clear()
        self._env.close()

    def __contains__(self, passage_id: object) -> bool:
        return isinstance(passage_id, str) and self._env.read(
            lambda txn: self._places(txn, [lookup_key(passage_id)]) != [None]
        )

    def __len__(self) -> int:
        return int(self._env.read(lambda txn: txn.stat(self._db["rows"])["entries"]))

    def __iter__(self) -> Iterator[str]:
        return self._env.keys("rows")

    def __enter__(self) -> LmdbTokenStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _settle(environment: Environment, codec: Codec) -> None:
    """Writes the settings of a new store; refuses a store that has others."""
    asked = {
        "codec": codec.name,
        "tokens_per_passage": codec.tokens_per_passage,
        "dim": codec.dim,
    }
    database = environment.databases["settings"]

    def read(txn: Any) -> bytes | None:
        value = txn.get(b"token_store", db=database)
        return None if value is None else bytes(value)

    stored = environment.read(read)
    if stored is None and not environment.readonly:
        value = json.dumps(asked).encode()
        environment.write(lambda txn: txn.put(b"token_store", value, db=database))
    elif stored is None:
        raise StoreError(f"the store at {environment.path} is unfinished: build it again")
    elif (made := json.loads(stored)) != asked:
        raise StoreError(
            f"the store at {environment.path} holds {_words(made)}, but {_words(asked)} was "
            "asked for: open it with its own settings, or build another"
        )


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def _segment_key(segment: int) -> bytes:
    # big-endian, so that LMDB's order is the order of numbers
    return segment.to_bytes(4, "big")


def _refuse_missing(ids: Sequence[str], found: Sequence[memoryview | None]) -> None:
    missing = dict.fromkeys(each for each, at in zip(ids, found, strict=True) if at is None)
    if missing:
        raise MissingPassagesError.naming(missing, "the store")
