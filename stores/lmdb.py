"""Token embeddings in LMDB, packed: many passages in one large value.

A value over 2 KB takes whole pages of its own, which would double the disk. So `segments` holds
rows of encoded tokens side by side, `rows` holds for each id its segment and its row there, and
`live` knows which ids point to a segment: one without any is dropped.

A segment is written once, on pages of its own, and its number is never used again. So its place in
the memory map is remembered: as long as an id points to it, LMDB leaves those pages alone. A
gather is one look-up for each id and one step that copies all rows out of the map.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from dipair_index.errors import MissingPassagesError, StoreError
from dipair_index.stores.codecs import Codec, Rows, open_codec
from dipair_index.stores.environment import Environment
from dipair_index.stores.lmdb_format import (
    DATABASES,
    NEXT,
    PLACE,
    Live,
    damage,
    next_segment,
    segment_key,
    segment_of,
    settle,
)
from dipair_index.stores.token_store import TokenStore, checked_keys, checked_rows, lookup_keys

SEGMENT_PAGES = 64
"""At most. py-lmdb reads a byte of each page of a value that it hands out, so that with more pages
the first read of a process would be slow."""

_PAGE_HEADER = 16
_MOST_ROWS = 2**16


class LmdbTokenStore(TokenStore):
    """A token store in one LMDB folder: one writer, many readers, any thread.

    Put in large batches: each call starts a new segment, and ends on a page of its own. A folder
    that nobody has open needs no `lock.mdb`: without it, readers write nothing at all.
    """

    def __init__(self, environment: Environment, codec: Codec) -> None:
        super().__init__(codec)
        self._env = environment
        self._rows_per_segment = _rows_per_segment(codec.bytes_per_passage, environment.page_bytes)
        # of each segment, its address in the map (0: not looked up yet) and its length
        self._mapped = np.zeros((0, 2), np.intp)
        self._lowest = 0
        self._first: Rows = np.empty(0, np.uint8)
        self._generation = environment.generation

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

        StoreError where there is nothing to read, where it was made with other settings or in
        another format, and where LMDB cannot open it. `map_bytes` is the size of the map to start
        from; it grows.
        """
        chosen = open_codec(codec, tokens_per_passage=tokens_per_passage, dim=dim)
        environment = Environment(Path(path), DATABASES, readonly=readonly, map_bytes=map_bytes)
        try:
            settle(environment, chosen)
        except BaseException:
            environment.close()
            raise
        return cls(environment, chosen)

    @staticmethod
    def remove(path: str | Path) -> None:
        """Deletes the files of the store at `path`, and the folder if nothing else is in it.

        Nothing happens where there is none. StoreError where it cannot be deleted.
        """
        path = Path(path)
        try:
            for name in ("data.mdb", "lock.mdb"):
                (path / name).unlink(missing_ok=True)
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        except OSError as error:
            raise StoreError(f"cannot delete the store at {path}: {error}") from error

    def put_encoded(self, ids: Sequence[str], rows: Rows) -> None:
        """As `put`, of uint8 rows (len(ids), bytes_per_passage) that this codec has encoded."""
        keys = checked_keys(ids)
        rows = checked_rows(ids, rows, self.codec)
        # of an id that stands twice in the batch, the last counts
        last = {key: place for place, key in enumerate(keys)}
        if len(last) < len(keys):
            rows = rows[list(last.values())]
        rows = np.ascontiguousarray(rows)
        if len(rows):
            self._env.write(
                lambda txn: self._write(txn, list(last), rows), bytes_needed=2 * rows.nbytes
            )

    def _write(self, txn: Any, keys: Sequence[bytes], rows: Rows) -> None:
        self._release(txn, zip(keys, self._places(txn, keys), strict=True))
        segment = next_segment(txn, self._db)
        per_segment = self._rows_per_segment
        number = np.arange(len(rows))
        places = np.empty(len(rows), PLACE)
        places["segment"] = segment + number // per_segment
        places["row"] = number % per_segment
        placed = list(zip(keys, places.view(f"V{PLACE.itemsize}").tolist(), strict=True))
        for start in range(0, len(rows), per_segment):
            end = start + per_segment
            value: Any = rows[start:end].data.cast("B")
            if len(value) < (page := self._env.page_bytes - _PAGE_HEADER):
                # a smaller value would lie among others, and move with them
                value = bytes(value).ljust(page, b"\0")
            live = Live.of(placed[start:end], value)
            txn.put(segment_key(segment), value, db=self._db["segments"])
            txn.put(segment_key(segment), live.packed(), db=self._db["live"])
            segment += 1
        placed.sort()
        with txn.cursor(self._db["rows"]) as cursor:
            # pages that are filled in order are filled whole
            in_order = not cursor.last() or cursor.key() < placed[0][0]
            cursor.putmulti(placed, append=in_order)
        txn.put(NEXT, segment.to_bytes(4, "little"), db=self._db["settings"])

    def get_encoded(self, ids: Sequence[str]) -> Rows:
        """As `get`, but the codec's uint8 rows (len(ids), bytes_per_passage): a new array."""
        return self._env.read_twice(partial(self._gather, ids))

    def _gather(self, ids: Sequence[str], copying: Any, lending: Any) -> Rows:
        width = self.codec.bytes_per_passage
        found = self._places(copying, lookup_keys(ids))
        _refuse_missing(ids, found)
        packed = b"".join(found)  # type: ignore[arg-type]
        if len(packed) != len(ids) * PLACE.itemsize:
            raise self._damaged("a passage has no place")
        if not packed:
            return np.empty((0, width), np.uint8)
        places = np.frombuffer(packed, PLACE)
        segments = places["segment"].astype(np.intp)
        rows = places["row"].astype(np.intp)
        self._find(lending, segments)
        addresses, lengths = self._mapped[segments].T
        if ((rows + 1) * width > lengths).any():
            raise self._damaged("a passage lies outside its segment")
        offsets = addresses + rows * width - self._lowest
        # the map as rows that start at each of its bytes: one step then copies those asked for
        windows = as_strided(self._first, (int(offsets.max()) + 1, width), (1, 1), writeable=False)
        gathered: Rows = windows[offsets]
        return gathered

    def _find(self, txn: Any, segments: npt.NDArray[np.intp]) -> None:
        """Looks up where in the map those segments are that nobody asked for before."""
        if self._generation != self._env.generation:
            # the map has grown: it is another one
            self._mapped, self._lowest = self._mapped[:0], 0
            self._generation = self._env.generation
        if segments.max() >= len(self._mapped):
            count = next_segment(txn, self._db)
            if segments.max() >= count:
                raise self._damaged("a passage is in a segment that never was")
            grown = np.zeros((max(count, 2 * len(self._mapped)), 2), np.intp)
            grown[: len(self._mapped)] = self._mapped
            self._mapped = grown
        for segment in set(segments[self._mapped[segments, 0] == 0].tolist()):
            value = txn.get(segment_key(segment), db=self._db["segments"])
            if not value:
                raise self._damaged("a segment is missing")
            view = np.frombuffer(value, np.uint8)
            address = int(view.__array_interface__["data"][0])
            self._mapped[segment] = address, len(value)
            if not self._lowest or address < self._lowest:
                self._first, self._lowest = view, address

    def delete(self, ids: Sequence[str]) -> None:
        """Forgets `ids`; where one is absent, MissingPassagesError, and nothing is deleted."""
        unique = list(dict.fromkeys(ids))
        keys = lookup_keys(unique)

        def work(txn: Any) -> None:
            found = self._places(txn, keys)
            _refuse_missing(unique, found)
            self._release(txn, zip(keys, found, strict=True))
            for key in keys:
                txn.delete(key, db=self._db["rows"])

        self._env.write(work)

    def _places(self, txn: Any, keys: Sequence[bytes]) -> list[bytes | None]:
        return list(map(txn.get, keys, repeat(None), repeat(self._db["rows"])))

    def _release(self, txn: Any, placed: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Takes ids out of their segments; drops segments that no other points to."""
        leaving = defaultdict(list)
        for key, place in placed:
            if place is not None:
                leaving[segment_of(place)].append((key, place))
        for segment, pairs in leaving.items():
            live = Live.read(txn, self._db, segment)
            if live is None:
                raise self._damaged("a segment is not accounted for")
            if len(pairs) < live.ids:
                left = live.without(Live.of(pairs))
                txn.put(segment_key(segment), left.packed(), db=self._db["live"])
            else:
                txn.delete(segment_key(segment), db=self._db["live"])
                txn.delete(segment_key(segment), db=self._db["segments"])

    def verify(self) -> list[str]:
        """Reads everything: a sentence for each damage, naming the passages; [] if whole.

        In one view of the store: other threads of this process wait, other processes do not.
        """
        width = self.codec.bytes_per_passage
        try:
            found = self._env.read(lambda txn: list(damage(txn, self._db, width)))
        except StoreError as error:
            if error.__cause__ is None:
                raise
            # LMDB's own error
            return [str(error)]
        return [f"the store at {self._env.path} is damaged: {each}" for each in found]

    def stored_bytes(self) -> int:
        """Bytes on disk."""
        return self._env.stored_bytes()

    def close(self) -> None:
        """Closes the files; closing twice is fine."""
        self._env.close()

    def __contains__(self, passage_id: object) -> bool:
        return isinstance(passage_id, str) and self._env.read(
            lambda txn: self._places(txn, lookup_keys([passage_id])) != [None]
        )

    def __len__(self) -> int:
        return int(self._env.read(lambda txn: txn.stat(self._db["rows"])["entries"]))

    def __iter__(self) -> Iterator[str]:
        return self._env.keys("rows")

    @property
    def _db(self) -> dict[str, Any]:
        return self._env.databases

    def _damaged(self, why: str) -> StoreError:
        return StoreError(f"the store at {self._env.path} is damaged ({why}): build it again")


def _rows_per_segment(width: int, page_bytes: int) -> int:
    """As many rows as leave the least of their last page unused."""

    def pages(rows: int) -> int:
        return -(-(rows * width + _PAGE_HEADER) // page_bytes)

    most = min(max(1, (SEGMENT_PAGES * page_bytes - _PAGE_HEADER) // width), _MOST_ROWS)
    return min(range(most, max(most // 2, most - 200), -1), key=lambda rows: pages(rows) / rows)


def _refuse_missing(ids: Sequence[str], found: Sequence[bytes | None]) -> None:
    if None in found:
        missing = dict.fromkeys(each for each, at in zip(ids, found, strict=True) if at is None)
        raise MissingPassagesError.naming(missing, "the store")
