"""The contract of token stores, kept by the backends that have no test file of their own for it."""

from functools import partial
from pathlib import Path

import pytest

from dipair_index.stores.codecs import open_codec
from dipair_index.stores.lmdb import LmdbTokenStore
from dipair_index.stores.testing import OpenStore, TokenStoreContract
from dipair_index.stores.token_store import DictTokenStore, TokenStore

ABSTRACT = [
    "__contains__", "__iter__", "__len__", "close", "delete", "get_encoded", "put_encoded",
    "stored_bytes", "verify",
]  # fmt: skip


@pytest.mark.parametrize("lacking", ABSTRACT)
def test_a_store_that_lacks_a_method_cannot_be_constructed(lacking: str) -> None:
    methods = {name: getattr(DictTokenStore, name) for name in ABSTRACT if name != lacking}
    half = type("HalfStore", (TokenStore,), methods)
    with pytest.raises(TypeError, match=rf"abstract class HalfStore .*method '?{lacking}\b"):
        half(open_codec("float32", tokens_per_passage=1, dim=1))


def test_a_store_with_all_methods_needs_its_codec() -> None:
    methods = {name: getattr(DictTokenStore, name) for name in ABSTRACT}
    whole = type("WholeStore", (TokenStore,), methods)
    codec = open_codec("float32", tokens_per_passage=1, dim=1)
    assert whole(codec).codec is codec
    with pytest.raises(TypeError, match="codec"):
        whole()


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
