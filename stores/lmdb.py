"""A token store in LMDB, which packs the tokens of many passages into one large value.

LMDB stores a value over 2 KB on whole pages, which would double the disk space. So a value of the
database `segments` is a block: consecutive rows of encoded tokens. `rows` maps each id to its
position, a block and a row in it. `live` has the number of ids in each block; a block without any
is deleted.

A block is written once, on pages of its own, and its number is never used again. So its address in
the memory map can be cached: as long as an id points to it, LMDB does not reuse those pages. To
read passages takes one look-up for each id, and one step that copies all rows out of the map.
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
from dipair_index.stores.codecs import Codec, EncodedRows, open_codec
from dipair_index.stores.environment import Environment
from dipair_index.stores.lmdb_format import (
    DATABASES,
    NEXT,
    POSITION,
    Live,
    block_key,
    block_of,
    damage,
    ensure_settings,
    next_block,
)
from dipair_index.stores.token_store import TokenStore, lookup_keys, validated_keys, validated_rows

BLOCK_PAGES = 64
"""The largest block in pages. py-lmdb reads a byte of each page of a value that it returns, so with
larger blocks, the first read of a process would be slow."""

_PAGE_HEADER = 16
_MOST_ROWS = 2**16


class LmdbTokenStore(TokenStore):
    """A token store in one LMDB folder, with one writer and many readers. Threads may share it.

    Put passages in large batches, since each call starts a new block. A folder that no process has
    open needs no `lock.mdb`; without it, readers write no file.
    """

    def __init__(self, environment: Environment, codec: Codec) -> None:
        super().__init__(codec)
        self._env = environment
        self._rows_per_block = _rows_per_block(codec.bytes_per_passage, environment.page_bytes)
        # the address of each block in the map (0 if it is not known yet), and its length
        self._mapped = np.zeros((0, 2), np.intp)
        self._lowest = 0
        self._first: EncodedRows = np.empty(0, np.uint8)
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
        """Opens the folder `path`; creates it if it is absent, unless `readonly`.

        `map_bytes` is the initial size of the map, which grows as needed. Raises `StoreError` if a
        store to be read is absent, if it has other settings or another format, or if LMDB cannot
        open it; `SettingsError` if the codec is unknown.
        """
        chosen = open_codec(codec, tokens_per_passage=tokens_per_passage, dim=dim)
        environment = Environment(Path(path), DATABASES, readonly=readonly, map_bytes=map_bytes)
        try:
            ensure_settings(environment, chosen)
        except BaseException:
            environment.close()
            raise
        return cls(environment, chosen)

    @staticmethod
    def remove(path: str | Path) -> None:
        """Deletes the files of the store at `path`, if any, and the folder if it is empty then.

        Raises `StoreError` if they cannot be deleted.
        """
        path = Path(path)
        try:
            for name in ("data.mdb", "lock.mdb"):
                (path / name).unlink(missing_ok=True)
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        except OSError as error:
            raise StoreError(f"cannot delete the store at {path}: {error}") from error

    def put_encoded(self, ids: Sequence[str], rows: EncodedRows) -> None:
        """Stores rows as `TokenStore.put_encoded` does."""
        keys = validated_keys(ids)
        rows = validated_rows(ids, rows, self.codec)
        # if an id is repeated in the batch, its last row is stored
        last = {key: position for position, key in enumerate(keys)}
        if len(last) < len(keys):
            rows = rows[list(last.values())]
        rows = np.ascontiguousarray(rows)
        if len(rows):
            self._env.write(
                lambda txn: self._write(txn, list(last), rows), bytes_needed=2 * rows.nbytes
            )

    def _write(self, txn: Any, keys: Sequence[bytes], rows: EncodedRows) -> None:
        self._release(txn, zip(keys, self._positions(txn, keys), strict=True))
        block = next_block(txn, self._db)
        per_block = self._rows_per_block
        number = np.arange(len(rows))
        positions = np.empty(len(rows), POSITION)
        positions["block"] = block + number // per_block
        positions["row"] = number % per_block
        entries = list(zip(keys, positions.view(f"V{POSITION.itemsize}").tolist(), strict=True))
        for start in range(0, len(rows), per_block):
            end = start + per_block
            value: Any = rows[start:end].data.cast("B")
            if len(value) < (page := self._env.page_bytes - _PAGE_HEADER):
                # LMDB would store a smaller value among others, and move it with them
                value = bytes(value).ljust(page, b"\0")
            live = Live.from_entries(entries[start:end], value)
            txn.put(block_key(block), value, db=self._db["segments"])
            txn.put(block_key(block), live.packed(), db=self._db["live"])
            block += 1
        entries.sort()
        with txn.cursor(self._db["rows"]) as cursor:
            # keys appended in order fill their pages completely
            in_order = not cursor.last() or cursor.key() < entries[0][0]
            cursor.putmulti(entries, append=in_order)
        txn.put(NEXT, block.to_bytes(4, "little"), db=self._db["settings"])

    def get_encoded(self, ids: Sequence[str]) -> EncodedRows:
        """Returns rows as `TokenStore.get_encoded` does."""
        return self._env.read_twice(partial(self._gather, ids))

    def _gather(self, ids: Sequence[str], copying: Any, lending: Any) -> EncodedRows:
        width = self.codec.bytes_per_passage
        found = self._positions(copying, lookup_keys(ids))
        _check_found(ids, found)
        packed = b"".join(found)  # type: ignore[arg-type]
        if len(packed) != len(ids) * POSITION.itemsize:
            raise self._damaged("a passage has no position")
        if not packed:
            return np.empty((0, width), np.uint8)
        positions = np.frombuffer(packed, POSITION)
        blocks = positions["block"].astype(np.intp)
        rows = positions["row"].astype(np.intp)
        self._find(lending, blocks)
        addresses, lengths = self._mapped[blocks].T
        if ((rows + 1) * width > lengths).any():
            raise self._damaged("a passage lies outside its block")
        offsets = addresses + rows * width - self._lowest
        # a view of the map with a row at every byte: one indexing step then copies the right rows
        windows = as_strided(self._first, (int(offsets.max()) + 1, width), (1, 1), writeable=False)
        gathered: EncodedRows = windows[offsets]
        return gathered

    def _find(self, txn: Any, blocks: npt.NDArray[np.intp]) -> None:
        """Looks up the addresses of the blocks that are not known yet."""
        if self._generation != self._env.generation:
            # the file was remapped, so all addresses are invalid
            self._mapped, self._lowest = self._mapped[:0], 0
            self._generation = self._env.generation
        if blocks.max() >= len(self._mapped):
            count = next_block(txn, self._db)
            if blocks.max() >= count:
                raise self._damaged("a passage is in a block that was never written")
            grown = np.zeros((max(count, 2 * len(self._mapped)), 2), np.intp)
            grown[: len(self._mapped)] = self._mapped
            self._mapped = grown
        for block in set(blocks[self._mapped[blocks, 0] == 0].tolist()):
            value = txn.get(block_key(block), db=self._db["segments"])
            if not value:
                raise self._damaged("a block is missing")
            view = np.frombuffer(value, np.uint8)
            address = int(view.__array_interface__["data"][0])
            self._mapped[block] = address, len(value)
            if not self._lowest or address < self._lowest:
                self._first, self._lowest = view, address

    def delete(self, ids: Sequence[str]) -> None:
        """Deletes `ids`, or nothing: raises `MissingPassagesError` if one is absent."""
        unique = list(dict.fromkeys(ids))
        keys = lookup_keys(unique)

        def work(txn: Any) -> None:
            found = self._positions(txn, keys)
            _check_found(unique, found)
            self._release(txn, zip(keys, found, strict=True))
            for key in keys:
                txn.delete(key, db=self._db["rows"])

        self._env.write(work)

    def _positions(self, txn: Any, keys: Sequence[bytes]) -> list[bytes | None]:
        return list(map(txn.get, keys, repeat(None), repeat(self._db["rows"])))

    def _release(self, txn: Any, entries: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Removes ids from their blocks; deletes blocks that have no id left."""
        leaving = defaultdict(list)
        for key, position in entries:
            if position is not None:
                leaving[block_of(position)].append((key, position))
        for block, pairs in leaving.items():
            live = Live.read(txn, self._db, block)
            if live is None:
                raise self._damaged("the ids of a block are not recorded")
            if len(pairs) < live.ids:
                left = live.without(Live.from_entries(pairs))
                txn.put(block_key(block), left.packed(), db=self._db["live"])
            else:
                txn.delete(block_key(block), db=self._db["live"])
                txn.delete(block_key(block), db=self._db["segments"])

    def verify(self) -> list[str]:
        """Reads the whole store; returns a sentence for each damage, which names the passages.

        It is one read transaction: other threads of this process wait, other processes do not.
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
        """Returns the bytes on disk."""
        return self._env.stored_bytes()

    def close(self) -> None:
        """Closes the files; closing twice is fine."""
        self._env.close()

    def __contains__(self, passage_id: object) -> bool:
        return isinstance(passage_id, str) and self._env.read(
            lambda txn: self._positions(txn, lookup_keys([passage_id])) != [None]
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


def _rows_per_block(width: int, page_bytes: int) -> int:
    """Returns the number of rows per block that wastes the least of the last page."""

    def pages(rows: int) -> int:
        return -(-(rows * width + _PAGE_HEADER) // page_bytes)

    most = min(max(1, (BLOCK_PAGES * page_bytes - _PAGE_HEADER) // width), _MOST_ROWS)
    return min(range(most, max(most // 2, most - 200), -1), key=lambda rows: pages(rows) / rows)


def _check_found(ids: Sequence[str], found: Sequence[bytes | None]) -> None:
    if None in found:
        missing = dict.fromkeys(each for each, at in zip(ids, found, strict=True) if at is None)
        raise MissingPassagesError.naming(missing, "the store")
