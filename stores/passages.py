"""The store of the passages' texts, titles and metadata, by id."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dipair_index.closing import Closing
from dipair_index.errors import MissingPassagesError, StoreError
from dipair_index.records import Passage
from dipair_index.stores.environment import Environment
from dipair_index.stores.token_store import lookup_keys, validated_keys

_DATABASE = "passages"


class PassageStore(Closing):
    """Passages in one LMDB folder: id, title, text and metadata. A context manager."""

    def __init__(self, environment: Environment) -> None:
        self._env = environment

    @classmethod
    def open(cls, path: str | Path, *, readonly: bool = False) -> PassageStore:
        """Opens the folder `path`; creates it if it is absent, unless `readonly`.

        Raises `StoreError` if a store to be read is absent, or if LMDB cannot open it.
        """
        return cls(Environment(Path(path), (_DATABASE,), readonly=readonly))

    def put(self, passages: Sequence[Passage], windows: Sequence[int] | None = None) -> None:
        """Stores passages, all or none; a passage whose id is stored already is replaced.

        `windows` are the numbers of windows into which they were split, 1 by default.
        Raises `StoreError` if an id is empty or over 511 bytes, if JSON cannot represent the
        metadata, or if writing fails.
        """
        keys = validated_keys([passage.passage_id for passage in passages])
        counts = windows or [1] * len(passages)
        values = [_encode(*each) for each in zip(passages, counts, strict=True)]

        def work(txn: Any) -> None:
            for key, value in zip(keys, values, strict=True):
                txn.put(key, value, db=self._db)

        if keys:
            self._env.write(work, bytes_needed=2 * sum(map(len, values)))

    def get(self, ids: Sequence[str]) -> list[Passage]:
        """Returns the passages of `ids`, which may repeat, in their order.

        Raises `MissingPassagesError` if an id is absent, and `StoreError` if one is damaged.
        """
        return [self._decode(*each) for each in zip(ids, self._stored(ids), strict=True)]

    def windows(self, ids: Sequence[str]) -> list[int]:
        """Returns the number of windows of each of `ids`; raises errors as `get` does."""
        return [int(value.partition(b"[")[0] or 1) for value in self._stored(ids)]

    def _stored(self, ids: Sequence[str]) -> list[bytes]:
        keys = lookup_keys(ids)
        values = self._env.read(lambda txn: self._values(txn, keys))
        missing = dict.fromkeys(each for each, at in zip(ids, values, strict=True) if at is None)
        if missing:
            raise MissingPassagesError.naming(missing, "the index")
        return [value for value in values if value is not None]

    def contains(self, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Returns which of `ids` are stored, a boolean array (len(ids),)."""
        keys = lookup_keys(ids)

        def work(txn: Any) -> list[bool]:
            return [txn.get(key, db=self._db) is not None for key in keys]

        return np.array(self._env.read(work), bool)

    def _values(self, txn: Any, keys: Sequence[bytes]) -> list[bytes | None]:
        found = [txn.get(key, db=self._db) for key in keys]
        return [None if value is None else bytes(value) for value in found]

    def _decode(self, passage_id: str, value: bytes) -> Passage:
        try:
            text, title, metadata = json.loads(value[value.index(b"[") :])
        except ValueError as error:
            raise StoreError(
                f"the passage {passage_id!r} in {self._env.path} is damaged: build it again"
            ) from error
        return Passage(passage_id, text, title, metadata)

    def delete(self, ids: Sequence[str]) -> None:
        """Deletes passages; raises `MissingPassagesError`, and deletes none, if an id is absent."""
        unique = list(dict.fromkeys(ids))

        def work(txn: Any) -> None:
            keys = lookup_keys(unique)
            deleted = [txn.delete(key, db=self._db) for key in keys]
            missing = [each for each, done in zip(unique, deleted, strict=True) if not done]
            if missing:
                # the error aborts the transaction
                raise MissingPassagesError.naming(missing, "the index")

        self._env.write(work)

    @property
    def _db(self) -> Any:
        return self._env.databases[_DATABASE]

    def close(self) -> None:
        """Closes the files; closing twice is fine."""
        self._env.close()

    def __contains__(self, passage_id: object) -> bool:
        return isinstance(passage_id, str) and bool(self.contains([passage_id])[0])

    def __len__(self) -> int:
        return int(self._env.read(lambda txn: txn.stat(self._db)["entries"]))

    def __iter__(self) -> Iterator[str]:
        """Iterates over the ids in the order of their code points."""
        return self._env.keys(_DATABASE)


def _encode(passage: Passage, windows: int) -> bytes:
    """Returns the passage as a JSON list, after the number of its windows if it has several."""
    try:
        stored = json.dumps(
            [passage.text, passage.title, dict(passage.metadata)],
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        ).encode()
        return b"%d%b" % (windows, stored) if windows > 1 else stored
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(
            f"the passage {passage.passage_id!r} cannot be stored as JSON ({error}): "
            "nothing of this batch was stored"
        ) from error
