"""Any sequence of operations leaves LmdbTokenStore as it leaves the dictionary."""

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dipair_index.errors import MissingPassagesError
from dipair_index.stores import lmdb as lmdb_module
from dipair_index.stores.lmdb import LmdbTokenStore
from dipair_index.stores.token_store import DictTokenStore

DIM = 700
IDS = st.sampled_from([*"abcdefgh", "é", "z" * 511])
BATCHES = st.lists(IDS, max_size=7)


class LmdbAgainstDict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.oracle = DictTokenStore(tokens_per_passage=2, dim=DIM, codec="int8")
        self.store = self.open()

    def open(self, *, readonly: bool = False) -> LmdbTokenStore:
        return LmdbTokenStore.open(
            self.folder / "s",
            tokens_per_passage=2,
            dim=DIM,
            codec="int8",
            readonly=readonly,
            map_bytes=64 * 1024,
        )

    @rule(ids=BATCHES, seed=st.integers(0, 9))
    def put(self, ids: Sequence[str], seed: int) -> None:
        tokens = np.random.default_rng(seed).normal(size=(len(ids), 2, DIM)).astype(np.float32)
        self.store.put(ids, tokens)
        self.oracle.put(ids, tokens)

    @rule(ids=BATCHES)
    def delete(self, ids: Sequence[str]) -> None:
        if self.both_refuse("delete", ids):
            return
        self.store.delete(ids)
        self.oracle.delete(ids)

    @rule(ids=BATCHES)
    def get(self, ids: Sequence[str]) -> None:
        if not self.both_refuse("get", ids):
            np.testing.assert_array_equal(self.store.get(ids), self.oracle.get(ids))

    def both_refuse(self, method: str, ids: Sequence[str]) -> bool:
        if all(each in self.oracle for each in ids):
            return False
        with pytest.raises(MissingPassagesError) as expected:
            getattr(self.oracle, method)(ids)
        with pytest.raises(MissingPassagesError, match=f"^{re.escape(str(expected.value))}$"):
            getattr(self.store, method)(ids)
        return True

    @rule()
    def reopen(self) -> None:
        self.store.close()
        with self.open(readonly=True) as reader:
            assert list(reader) == list(self.oracle)
        self.store = self.open()

    @invariant()
    def same_ids_and_tokens(self) -> None:
        ids = list(self.oracle)
        assert list(self.store) == ids
        assert len(self.store) == len(ids)
        np.testing.assert_array_equal(self.store.get(ids), self.oracle.get(ids))
        assert self.store.verify() == []

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    # two passages a block, so that a batch fills several
    monkeypatch.setattr(lmdb_module, "BLOCK_PAGES", 1)


TestLmdbAgainstDict = pytest.mark.usefixtures("small_blocks")(LmdbAgainstDict.TestCase)
TestLmdbAgainstDict.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
