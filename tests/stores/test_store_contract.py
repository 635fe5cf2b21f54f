"""The contract of token stores, kept by the backends that have no test file of their own for it."""

from functools import partial
from pathlib import Path

import pytest

from dipair_index.stores.lmdb import LmdbTokenStore
from dipair_index.stores.testing import OpenStore, TokenStoreContract
from dipair_index.stores.token_store import DictTokenStore, TokenStore


class TestDictTokenStore(TokenStoreContract):
    persistent = False

    @pytest.fixture
    def open_store(self) -> OpenStore:
        def opened(
            *, tokens_per_passage: int, dim: int, codec: str, readonly: bool = False
        ) -> TokenStore:
            return DictTokenStore(tokens_per_passage=tokens_per_passage, dim=dim, codec=codec)

        return opened


class TestLmdbTokenStore(TokenStoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return partial(LmdbTokenStore.open, tmp_path / "tokens")
