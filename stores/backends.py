"""Opens token stores by the name of their backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dipair_index.errors import SettingsError
from dipair_index.stores.lmdb import LmdbTokenStore
from dipair_index.stores.names import STORE_NAMES
from dipair_index.stores.token_store import TokenStore

if TYPE_CHECKING:
    from dipair_index.stores.tensorstore import TensorStoreTokenStore


def open_token_store(
    kind: str,
    location: str | Path,
    *,
    tokens_per_passage: int,
    dim: int,
    codec: str,
    readonly: bool = False,
) -> TokenStore:
    """Opens the store at `location`, and creates it if it is absent, unless `readonly`.

    `kind` is "lmdb" or "tensorstore"; `location` is a folder or, for tensorstore, a URL. Raises
    `SettingsError` if the `kind` or the codec is unknown, and `StoreError` if a store to be read is
    absent, or if it has other settings.

    Examples
    --------
    >>> import numpy as np
    >>> from dipair_index import open_token_store
    >>> settings = {"tokens_per_passage": 2, "dim": 4, "codec": "float32"}
    >>> with open_token_store("lmdb", "tokens", **settings) as store:
    ...     store.put(["p1"], np.ones((1, 2, 4), np.float32))
    ...     float(store.get(["p1"]).sum())
    8.0
    """
    if kind == "lmdb" and "://" in str(location):
        raise SettingsError(f"lmdb keeps a store in a folder, got {location}: choose tensorstore")
    return _backend(kind).open(
        location, tokens_per_passage=tokens_per_passage, dim=dim, codec=codec, readonly=readonly
    )


def remove_token_store(kind: str, location: str | Path) -> None:
    """Deletes the store at `location`, if there is one; no process may have it open.

    Raises `StoreError` if the data cannot be deleted.
    """
    _backend(kind).remove(location)


def _backend(kind: str) -> type[LmdbTokenStore] | type[TensorStoreTokenStore]:
    if kind == "lmdb":
        return LmdbTokenStore
    if kind == "tensorstore":
        # tensorstore is slow to import, and lmdb is the default
        from dipair_index.stores.tensorstore import TensorStoreTokenStore

        return TensorStoreTokenStore
    raise SettingsError(f"unknown store {kind!r}: choose one of {', '.join(STORE_NAMES)}")
