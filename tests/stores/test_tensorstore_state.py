"""Writers that crash, that meet each other, and any sequence of what they do."""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dipair_index.errors import MissingPassagesError
from dipair_index.records import FloatArray
from dipair_index.stores import zarr_rows
from dipair_index.stores.change_log import Change, ChangeLog
from dipair_index.stores.tensorstore import TensorStoreTokenStore
from dipair_index.stores.token_store import DictTokenStore

IDS = st.sampled_from([*"abcdefghijkl", "é", "z" * 511])
BATCHES = st.lists(IDS, max_size=12)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight rows a shard and two a chunk, for rows of 12 bytes."""
    monkeypatch.setattr(zarr_rows, "SHARD_ROWS", 8)
    monkeypatch.setattr(zarr_rows, "CHUNK_BYTES", 24)


def open_store(location: str | Path, *, readonly: bool = False) -> TensorStoreTokenStore:
    return TensorStoreTokenStore.open(
        location, tokens_per_passage=3, dim=1, codec="float32", readonly=readonly
    )


def numbered(*values: float) -> FloatArray:
    """Tokens (values, 3, 1), each passage all of one value."""
    return np.repeat(np.array(values, np.float32), 3).reshape(-1, 3, 1)


def values(store: TensorStoreTokenStore, *ids: str) -> list[float]:
    tokens = store.get(ids)
    assert (tokens == tokens[:, :1]).all()
    return [float(value) for value in tokens[:, 0, 0]]


def test_what_was_written_before_the_change_was_is_never_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: ChangeLog, make: Callable[[], Change]) -> list[int]:
        raise KeyboardInterrupt

    with open_store(tmp_path / "s") as store:
        store.put(["a", "b"], numbered(1, 2))
        with monkeypatch.context() as patch:
            patch.setattr(ChangeLog, "commit", crash)
            with pytest.raises(KeyboardInterrupt):
                store.put(["a", "c"], numbered(3, 4))
        assert len(list((tmp_path / "s").glob("c.*"))) == 2
        assert list(store) == ["a", "b"]
    with open_store(tmp_path / "s") as store:
        assert list(store) == ["a", "b"]
        assert values(store, "a", "b") == [1, 2]
        assert store.verify() == []
        store.put(["a", "c"], numbered(3, 4))
        assert values(store, "a", "b", "c") == [3, 2, 4]


def test_a_change_that_comes_first_is_taken_in_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path / "s") as one, open_store(tmp_path / "s") as other:
        one.put(["a"], numbered(1))
        replacing = other._replacing
        late = iter([True])

        def overtaken(keys: list[bytes], first: int) -> Change:
            change = replacing(keys, first)
            if next(late, False):
                one.put(["a", "b"], numbered(2, 3))
            return change

        monkeypatch.setattr(other, "_replacing", overtaken)
        other.put(["a", "c"], numbered(4, 5))
        assert values(other, "a", "b", "c") == [4, 3, 5]
        assert len(one) == 3
        assert values(one, "a", "b", "c") == [4, 3, 5]
    with open_store(tmp_path / "s", readonly=True) as store:
        assert list(store) == ["a", "b", "c"]


def test_a_write_whose_answer_was_lost_is_not_done_twice(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        kvstore = store._location.store

        def write(*args: Any, **settings: Any) -> Any:
            kvstore.write(*args, **settings).result()
            return kvstore.write(*args, **settings)

        store._location.store = SimpleNamespace(read=kvstore.read, write=write)
        store.put(["a"], numbered(1))
        assert values(store, "a") == [1]
        assert len(list((tmp_path / "s").glob("log.*"))) == 1


WRITER = """
import sys
import numpy as np
from dipair_index.stores.tensorstore import TensorStoreTokenStore
with TensorStoreTokenStore.open(sys.argv[1], tokens_per_passage=3, dim=1, codec="float32") as store:
    for step in range(int(sys.argv[2]), 10**9):
        ids = ["latest", *(f"{step % 50}-{number}" for number in range(5))]
        store.put(ids, np.full((6, 3, 1), step, "f4"))
        if step % 3 == 0:
            store.delete(ids[1:3])
        sys.stdout.write(f"{step}\\n")
        sys.stdout.flush()
"""


@pytest.mark.slow
def test_a_killed_writer_loses_nothing_that_it_had_finished(tmp_path: Path) -> None:
    rng = random.Random(0)
    folder = tmp_path / "s"
    finished = 0
    for _ in range(100):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(finished + 1)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(rng.random() / 10)
        writer.kill()
        finished = int((first + writer.stdout.read()).split()[-1])
        writer.wait()
        with open_store(folder, readonly=True) as store:
            (latest,) = values(store, "latest")
            assert latest in (finished, finished + 1)
            assert latest == finished or f"{latest % 50:.0f}-4" in store
            assert set(values(store, *(f"{finished % 50}-{n}" for n in (2, 3, 4)))) == {finished}
            assert store.verify() == []
        finished = int(latest)


class TensorStoreAgainstDict(RuleBasedStateMachine):
    """Any sequence of operations leaves TensorStoreTokenStore as it leaves the dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.oracle = DictTokenStore(tokens_per_passage=3, dim=1)
        self.store = open_store(self.folder / "s")
        self.reader = open_store(self.folder / "s", readonly=True)

    @rule(ids=BATCHES, seed=st.integers(0, 9))
    def put(self, ids: Sequence[str], seed: int) -> None:
        tokens = numbered(*np.random.default_rng(seed).normal(size=len(ids)))
        self.store.put(ids, tokens)
        self.oracle.put(ids, tokens)

    @rule(ids=BATCHES)
    def delete(self, ids: Sequence[str]) -> None:
        there = [each for each in ids if each in self.oracle]
        if len(there) < len(ids):
            with pytest.raises(MissingPassagesError):
                self.store.delete(ids)
        self.store.delete(there)
        self.oracle.delete(there)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = open_store(self.folder / "s")

    @invariant()
    def all_see_the_same(self) -> None:
        ids = list(self.oracle)
        expected = self.oracle.get(ids)
        for store in (self.store, self.reader):
            assert list(store) == ids
            assert len(store) == len(ids)
            np.testing.assert_array_equal(store.get(ids), expected)

    def teardown(self) -> None:
        assert self.store.verify() == []
        files = sum(path.stat().st_size for path in (self.folder / "s").iterdir())
        assert self.store.stored_bytes() == files
        self.reader.close()
        self.store.close()
        shutil.rmtree(self.folder)


TestTensorStoreAgainstDict = pytest.mark.usefixtures("small_shards")(
    TensorStoreAgainstDict.TestCase
)
TestTensorStoreAgainstDict.settings = settings(
    max_examples=25,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
