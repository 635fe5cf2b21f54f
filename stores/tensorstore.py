"""A token store in a folder or a bucket: an append-only zarr array, and a log of changes.

`zarr.json` and `c.<shard>.0` are the array, with a row per passage. Each `log.<number>` is one
change: added ids with their rows, and deleted rows. A put writes new shards first and its change
last, so it is atomic, and no object is written twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dipair_index.errors import MissingPassagesError, StoreError
from dipair_index.stores.change_log import CHANGES, Change, ChangeLog
from dipair_index.stores.codecs import Codec, EncodedRows, open_codec
from dipair_index.stores.id_table import Integers
from dipair_index.stores.locations import Location
from dipair_index.stores.packed_ids import PackedIds
from dipair_index.stores.token_store import TokenStore, lookup_keys, validated_keys, validated_rows
from dipair_index.stores.zarr_rows import KIND, METADATA, SHARDS, ZarrRows
from dipair_index.words import listed


class TensorStoreTokenStore(TokenStore):
    """A token store in a folder or at a URL: file://, s3://, gs:// or memory://.

    Threads may share it. A reader sees the changes that were there when it was opened, and reads
    newer ones if an id is missing, and when ids are listed or counted. Several processes may write;
    of two simultaneous changes, the second includes the first (on S3 servers other than Amazon's
    only with TENSORSTORE_S3_USE_CONDITIONAL_WRITE=true). Put passages in large batches, since each
    call makes new objects.
    """

    def __init__(self, location: Location, codec: Codec, *, readonly: bool) -> None:
        super().__init__(codec)
        self._location = location
        self._readonly = readonly
        self._closed = False
        self._rows = ZarrRows(location, codec, readonly=readonly)
        self._log = ChangeLog(location, self._rows.shard_rows)

    @classmethod
    def open(
        cls,
        location: str | Path,
        *,
        tokens_per_passage: int,
        dim: int,
        codec: str,
        readonly: bool = False,
    ) -> TensorStoreTokenStore:
        """Opens the store at `location`; creates it if it is absent, unless `readonly`.

        Raises `StoreError` if a store to be read is absent, if it has other settings or a newer
        format, or if TensorStore cannot open it; `SettingsError` if the codec is unknown.
        """
        chosen = open_codec(codec, tokens_per_passage=tokens_per_passage, dim=dim)
        opened = Location(location)
        with opened.sentences("open"):
            return cls(opened, chosen, readonly=readonly)

    @staticmethod
    def remove(location: str | Path) -> None:
        """Deletes the objects of the store at `location`, if any, and the folder if it is empty.

        Raises `StoreError` if something else is there, or if it cannot be deleted.
        """
        opened = Location(location)
        with opened.sentences("delete"):
            metadata = opened.read(METADATA)
            if metadata is None:
                return
            # not parsed, so that a damaged store can be removed as well
            if KIND.encode() not in metadata:
                raise StoreError(
                    f"{opened.name} holds a zarr array of another program: it was not deleted"
                )
            # the metadata last, so that an interrupted removal can be repeated
            opened.delete(SHARDS, CHANGES, METADATA)

    def put_encoded(self, ids: Sequence[str], rows: EncodedRows) -> None:
        """Stores rows as `TokenStore.put_encoded` does."""
        keys = validated_keys(ids)
        rows = validated_rows(ids, rows, self.codec)
        # if an id is repeated in the batch, its last row is stored
        last = {key: index for index, key in enumerate(keys)}
        if len(last) < len(keys):
            rows = rows[list(last.values())]
        with self._using("write to"):
            if len(rows):
                first = self._rows.append(rows)
                self._commit(lambda: self._replacing(list(last), first))

    def _replacing(self, keys: Sequence[bytes], first: int) -> Change:
        replaced = self._log.ids.find(keys)
        return Change.from_keys(PackedIds.from_keys(keys), first, replaced[replaced >= 0])

    def delete(self, ids: Sequence[str]) -> None:
        """Deletes `ids`, or nothing: raises `MissingPassagesError` if one is absent."""
        unique = list(dict.fromkeys(ids))
        with self._using("write to"):
            if unique:
                self._commit(
                    lambda: Change.from_keys(PackedIds.from_keys([]), 0, self._find(unique))
                )

    def _commit(self, change: Callable[[], Change]) -> None:
        self._rows.drop(self._log.commit(change))

    def get_encoded(self, ids: Sequence[str]) -> EncodedRows:
        """Returns rows as `TokenStore.get_encoded` does."""
        with self._using("read from"):
            rows = self._find(ids)
            while True:
                try:
                    return self._rows.take(rows)
                except ValueError:
                    # the shard may be gone, since its passages were replaced or deleted meanwhile
                    self._log.follow()
                    again = self._find(ids)
                    if np.array_equal(rows, again):
                        raise
                    rows = again

    def _find(self, ids: Sequence[str]) -> Integers:
        """Returns the row of each id; raises `MissingPassagesError`."""
        keys = lookup_keys(ids)
        with self._log.lock:
            rows = self._log.ids.find(keys)
            if (rows < 0).any():
                self._log.follow()
                rows = self._log.ids.find(keys)
        missing = dict.fromkeys(ids[index] for index in np.flatnonzero(rows < 0).tolist())
        if missing:
            raise MissingPassagesError.naming(missing, "the store")
        return rows

    def verify(self) -> list[str]:
        """Reads everything; returns a sentence for each damage, naming passages or files."""
        with self._using("read from"):
            self._log.follow()
            return [*self._rows.metadata_damage(), *self._log.damage(), *self._damaged_passages()]

    def _damaged_passages(self) -> Iterator[str]:
        for shard, parts in self._rows.damaged_rows(dict(self._log.written)):
            with self._log.lock:
                self._log.follow()
                ids = [each for rows in parts for each in self._log.ids.between(rows)]
                is_written = shard in self._log.written
            # otherwise another writer has deleted the shard meanwhile
            if is_written:
                what = listed(ids) or "what was deleted"
                yield f"{self._rows.name_of(shard)} is damaged: cannot read {what}"

    def stored_bytes(self) -> int:
        """Returns the bytes on disk, or in the bucket."""
        with self._using("read from"), self._log.lock:
            self._log.follow()
            return self._rows.stored_bytes(self._log.written) + self._log.stored_bytes

    def close(self) -> None:
        """Closes the files; closing twice is fine."""
        self._closed = True
        self._rows.close()

    def __contains__(self, passage_id: object) -> bool:
        if not isinstance(passage_id, str):
            return False
        with self._using("read from"):
            try:
                self._find([passage_id])
            except MissingPassagesError:
                return False
            return True

    def __len__(self) -> int:
        with self._using("read from"), self._log.lock:
            self._log.follow()
            return len(self._log.ids)

    def __iter__(self) -> Iterator[str]:
        with self._using("read from"), self._log.lock:
            self._log.follow()
            return iter(self._log.ids)

    @contextmanager
    def _using(self, verb: str) -> Iterator[None]:
        """Raises `StoreError` if the store is closed or readonly; converts TensorStore's errors."""
        if self._closed:
            raise StoreError(f"the store at {self._location.name} is closed")
        if self._readonly and verb == "write to":
            raise StoreError(f"{self._location.name} was opened readonly and takes no changes")
        with self._location.sentences(verb):
            yield
