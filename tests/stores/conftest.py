"""Token stores by name, so that every backend and codec passes the same tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dipair_index.records import FloatArray
from dipair_index.stores.lmdb import LmdbTokenStore
from dipair_index.stores.token_store import DictTokenStore, TokenStore

TOKENS, DIM = 3, 5

OpenStore = Callable[..., TokenStore]

# a new backend is one line here
BACKENDS: dict[str, OpenStore] = {
    "dict": lambda path, **settings: DictTokenStore(**settings),
    "lmdb": lambda path, **settings: LmdbTokenStore.open(path / "tokens", **settings),
}


@pytest.fixture(params=["float32", "float16", "int8"])
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def oracle(codec: str) -> DictTokenStore:
    return DictTokenStore(tokens_per_passage=TOKENS, dim=DIM, codec=codec)


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest, tmp_path: Path, codec: str) -> Iterator[TokenStore]:
    open_store = BACKENDS[request.param]
    with open_store(tmp_path, tokens_per_passage=TOKENS, dim=DIM, codec=codec) as opened:
        yield opened


@pytest.fixture
def some_tokens() -> Callable[..., FloatArray]:
    def make(count: int, seed: int = 0, tokens: int = TOKENS, dim: int = DIM) -> FloatArray:
        values = np.random.default_rng(seed).normal(size=(count, tokens, dim))
        return values.astype(np.float32)

    return make
