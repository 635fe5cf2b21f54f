"""One folder opened several times in a process, in many threads, and in forked children."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipair_index.errors import DirectoryError, StoreError
from dipair_index.records import FloatArray
from dipair_index.stores.lmdb import LmdbTokenStore
from dipair_index.stores.passages import PassageStore
from dipair_index.stores.shared_environment import SharedEnvironment
from dipair_index.stores.snapshot import Snapshot

IDS = [f"p{number}" for number in range(50)]


def opened(path: Path, *, readonly: bool = False) -> LmdbTokenStore:
    return LmdbTokenStore.open(
        path, tokens_per_passage=3, dim=5, codec="float32", readonly=readonly
    )


def in_child(work: Callable[[], object]) -> None:
    """Runs `work` in a forked child; fails if it raises, or does not end within a minute."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"in the child: {error!r}\n".encode())
        finally:
            os._exit(1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


@pytest.fixture
def tokens(some_tokens: Callable[..., FloatArray]) -> FloatArray:
    return some_tokens(len(IDS))


@pytest.fixture
def folder(tmp_path: Path, tokens: FloatArray) -> Path:
    with opened(tmp_path / "tokens") as store:
        store.put(IDS, tokens)
    return tmp_path / "tokens"


@pytest.fixture
def elsewhere() -> set[Any]:
    """The environments that other tests of this process hold open."""
    return set(SharedEnvironment.open_ones)


def test_one_folder_is_opened_several_times_and_closed_in_any_order(
    elsewhere: set[Any], folder: Path, tokens: FloatArray
) -> None:
    writer, reader, other = opened(folder), opened(folder, readonly=True), opened(folder)
    writer.put(["new"], tokens[:1])
    for store in (reader, other):
        np.testing.assert_array_equal(store.get(["new", *IDS]), tokens[[0, *range(50)]])
    with pytest.raises(StoreError, match="was opened readonly and takes no changes"):
        reader.delete(["new"])
    writer.close()
    writer.close()
    with pytest.raises(StoreError, match="is closed"):
        writer.get(IDS)
    other.delete(["new"])
    other.close()
    assert list(reader) == sorted(IDS)
    reader.close()
    assert set(SharedEnvironment.open_ones) <= elsewhere


def test_a_store_that_is_read_in_this_process_is_not_opened_for_writing(folder: Path) -> None:
    with (
        opened(folder, readonly=True),
        pytest.raises(StoreError, match="is open for reading in this process: close it there"),
    ):
        opened(folder)
    with opened(folder) as store:
        store.delete(IDS[:1])


def test_what_cannot_be_opened_leaves_nothing_open(
    elsewhere: set[Any], folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="holds codec=float32"):
        LmdbTokenStore.open(folder, tokens_per_passage=3, dim=6, codec="float32")
    with pytest.raises(StoreError, match="LMDB folder of another program: it has no passages"):
        PassageStore.open(folder, readonly=True)
    assert set(SharedEnvironment.open_ones) <= elsewhere


def test_threads_open_read_and_close_one_folder(
    elsewhere: set[Any], folder: Path, tokens: FloatArray
) -> None:
    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(20):
            with opened(folder, readonly=True) as store:
                rows = rng.integers(0, 50, size=20)
                asked = [IDS[row] for row in rows]
                np.testing.assert_array_equal(store.get(asked), tokens[rows])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert set(SharedEnvironment.open_ones) <= elsewhere


def test_a_store_grows_while_threads_read_it_through_other_handles(
    folder: Path, tokens: FloatArray, some_tokens: Callable[..., FloatArray]
) -> None:
    added = some_tokens(400, seed=2)
    stop = threading.Event()

    def read() -> None:
        with opened(folder, readonly=True) as store:
            while not stop.is_set():
                np.testing.assert_array_equal(store.get(IDS), tokens)

    with (
        LmdbTokenStore.open(
            folder, tokens_per_passage=3, dim=5, codec="float32", map_bytes=2**16
        ) as writer,
        ThreadPoolExecutor(4) as pool,
    ):
        readers = [pool.submit(read) for _ in range(4)]
        try:
            for start in range(0, 400, 10):
                writer.put([f"n{row}" for row in range(start, start + 10)], added[start:][:10])
        finally:
            stop.set()
        for reader in readers:
            reader.result()
        np.testing.assert_array_equal(writer.get([f"n{row}" for row in range(400)]), added)


def test_threads_open_read_and_close_one_index(
    elsewhere: set[Any], toy_index: Any, tmp_path: Path
) -> None:
    toy = toy_index(tmp_path / "i", ["b", "a", "ccc"], ["ü", "日本"])
    expected = toy.expected(["b", "a", "ccc", "ü", "日本"])

    with ThreadPoolExecutor(16) as pool:
        seen = list(pool.map(lambda _: toy.seen(), range(100)))
    assert all(each == expected for each in seen)
    assert set(SharedEnvironment.open_ones) <= elsewhere


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("lock", [False, True])
def test_a_forked_child_reads_what_was_opened_before(
    folder: Path, tokens: FloatArray, readonly: bool, lock: bool
) -> None:
    if not lock:
        (folder / "lock.mdb").unlink()
    with opened(folder, readonly=readonly) as store:
        np.testing.assert_array_equal(store.get(IDS), tokens)

        def read() -> None:
            np.testing.assert_array_equal(store.get(IDS), tokens)
            with opened(folder, readonly=True) as again:
                np.testing.assert_array_equal(again.get(IDS[::-1]), tokens[::-1])
            store.close()

        for _ in range(3):
            in_child(read)
            np.testing.assert_array_equal(store.get(IDS), tokens)


def test_a_forked_child_writes_and_the_parent_sees_it(folder: Path, tokens: FloatArray) -> None:
    with opened(folder) as store:
        store.put(["before"], tokens[:1])
        in_child(lambda: store.put(["child"], tokens[1:2]))
        np.testing.assert_array_equal(store.get(["before", "child"]), tokens[:2])
        store.put(["after"], tokens[2:3])
        in_child(lambda: np.testing.assert_array_equal(store.get(["after"]), tokens[2:3]))
        assert store.verify() == []


def test_a_process_forks_while_its_threads_read(folder: Path, tokens: FloatArray) -> None:
    stop = threading.Event()
    with opened(folder) as store, ThreadPoolExecutor(4) as pool:

        def read() -> None:
            while not stop.is_set():
                np.testing.assert_array_equal(store.get(IDS), tokens)

        readers = [pool.submit(read) for _ in range(4)]
        try:
            for _ in range(10):
                in_child(lambda: np.testing.assert_array_equal(store.get(IDS), tokens))
        finally:
            stop.set()
        for reader in readers:
            reader.result()


def test_a_forked_child_reads_and_opens_an_index(toy_index: Any, tmp_path: Path) -> None:
    toy = toy_index(tmp_path / "i", ["b", "a", "ccc"], ["ü", "日本"])
    ids = ["b", "a", "ccc", "ü", "日本"]
    with Snapshot.open(toy.root) as snapshot:

        def read() -> None:
            np.testing.assert_array_equal(snapshot.tokens(ids), toy.tokens(ids))
            assert snapshot.passages(ids) == [toy.passage(each) for each in ids]
            with Snapshot.open(toy.root) as again:
                np.testing.assert_array_equal(again.tokens(ids), toy.tokens(ids))

        in_child(read)
        np.testing.assert_array_equal(snapshot.tokens(ids), toy.tokens(ids))


def test_a_path_that_was_relative_stays_the_same_one(
    tmp_path: Path, tokens: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with opened(Path("tokens")) as store:
        store.put(IDS, tokens)
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert store.stored_bytes() == (tmp_path / "tokens" / "data.mdb").stat().st_size
        # a child opens the folder again
        in_child(lambda: np.testing.assert_array_equal(store.get(IDS), tokens))
    assert os.listdir() == []


def test_a_forked_child_is_told_that_tensorstore_cannot_be_used(
    tmp_path: Path, tokens: FloatArray
) -> None:
    from dipair_index.stores.tensorstore import TensorStoreTokenStore

    def opened_again() -> TensorStoreTokenStore:
        return TensorStoreTokenStore.open(
            tmp_path / "ts", tokens_per_passage=3, dim=5, codec="float32"
        )

    with opened_again() as store:
        store.put(IDS, tokens)

        def use() -> None:
            for each in (lambda: store.get(IDS), lambda: len(store), opened_again):
                with pytest.raises(StoreError, match="TensorStore cannot be used in a process"):
                    each()
            store.close()

        in_child(use)
        np.testing.assert_array_equal(store.get(IDS), tokens)


USE = """
import os, sys
from dipair_index.records import Passage
from dipair_index.stores.ann import FaissIndex
from dipair_index.stores.backends import open_token_store
from dipair_index.stores.passages import PassageStore
import numpy as np
kind, folder = sys.argv[1:]
tokens = np.arange(30, dtype=np.float32).reshape(2, 3, 5)
for readonly in (False, True):
    with open_token_store(kind, folder + "/tokens", tokens_per_passage=3, dim=5, codec="float32",
                          readonly=readonly) as store:
        if not readonly:
            store.put(["a", "b"], tokens)
        np.testing.assert_array_equal(store.get(["b", "a"]), tokens[::-1])
with PassageStore.open(folder + "/passages") as store:
    store.put([Passage("a", "text")])
FaissIndex.build(["a", "b"], np.eye(2, 8, dtype=np.float32)).save(folder + "/ann")
found, _ = FaissIndex.load(folder + "/ann").search(np.eye(1, 8, 1, dtype=np.float32), 1)
assert found == [["b"]], found
"""


@pytest.mark.parametrize("kind", ["lmdb", "tensorstore"])
def test_a_folder_may_have_any_letters_in_an_ascii_locale(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "índex 日本"
    folder.mkdir()
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run(
        [sys.executable, "-c", USE, kind, folder], env={**os.environ, **ascii_only}, check=True
    )
    assert sorted(os.listdir(folder)) == ["ann", "passages", "tokens"]
    assert sorted(os.listdir(tmp_path)) == ["índex 日本"]


@pytest.mark.parametrize("kind", ["lmdb", "tensorstore"])
def test_a_path_that_is_not_utf8_is_refused(tmp_path: Path, kind: str) -> None:
    from dipair_index.stores.backends import open_token_store

    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff"))
    with pytest.raises(DirectoryError, match=r"the name of '.*bad\\udcff' is not UTF-8: choose an"):
        open_token_store(kind, path, tokens_per_passage=3, dim=5, codec="float32")
