"""What LmdbTokenStore and its environment promise beyond the contract."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest

from dipair_index.errors import MissingPassagesError, StoreError
from dipair_index.records import FloatArray
from dipair_index.stores import environment
from dipair_index.stores import lmdb as lmdb_module
from dipair_index.stores.lmdb import LmdbTokenStore
from dipair_index.stores.names import CODEC_NAMES

Make = Callable[..., FloatArray]


def open_store(
    path: Path, *, dim: int = 5, readonly: bool = False, map_bytes: int | None = None
) -> LmdbTokenStore:
    return LmdbTokenStore.open(
        path,
        tokens_per_passage=3,
        dim=dim,
        codec="float32",
        readonly=readonly,
        map_bytes=map_bytes,
    )


def blocks(store: LmdbTokenStore) -> int:
    database = store._env.databases["segments"]
    return int(store._env.read(lambda txn: txn.stat(database)["entries"]))


def test_a_tiny_map_grows_by_itself(tmp_path: Path, some_tokens: Make) -> None:
    tokens = some_tokens(3000, dim=64)
    ids = [f"p{number}" for number in range(3000)]
    with open_store(tmp_path / "s", dim=64, map_bytes=64 * 1024) as store:
        for start in range(0, 3000, 100):
            store.put(ids[start : start + 100], tokens[start : start + 100])
            # reading in between remembers where blocks stand, in a map that will be gone
            np.testing.assert_array_equal(store.get(ids[: start + 100]), tokens[: start + 100])
    with open_store(tmp_path / "s", dim=64, readonly=True) as store:
        np.testing.assert_array_equal(store.get(ids), tokens)


def test_one_batch_larger_than_the_map_and_a_block_is_stored_whole(
    tmp_path: Path, some_tokens: Make
) -> None:
    tokens = some_tokens(5000, dim=64)
    ids = [f"p{number}" for number in range(5000)]
    with open_store(tmp_path / "s", dim=64, map_bytes=64 * 1024) as store:
        store.put(ids, tokens)
        # 341 rows of 768 bytes and a header of 16 fill 64 pages but for 240 bytes
        assert blocks(store) == -(-5000 // 341)
        np.testing.assert_array_equal(store.get(ids[::-1]), tokens[::-1])


def test_a_reader_follows_a_map_that_another_process_has_grown(
    tmp_path: Path, some_tokens: Make
) -> None:
    path = tmp_path / "s"
    with open_store(path, map_bytes=64 * 1024) as store:
        store.put(["a"], some_tokens(1))
    program = f"""
import numpy as np
from dipair_index.stores.lmdb import LmdbTokenStore
with LmdbTokenStore.open({str(path)!r}, tokens_per_passage=3, dim=5, codec="float32") as store:
    for step in range(4):
        store.put([f"p{{step}}-{{n}}" for n in range(9000)], np.full((9000, 3, 5), step, "f4"))
"""
    with open_store(path, readonly=True, map_bytes=64 * 1024) as reader:
        np.testing.assert_array_equal(reader.get(["a"]), some_tokens(1))
        subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
        assert len(reader) == 36_001
        assert reader.get(["p3-8999", "p0-0"])[:, 0, 0].tolist() == [3, 0]


def test_blocks_without_a_live_row_are_dropped(tmp_path: Path, some_tokens: Make) -> None:
    with open_store(tmp_path / "s") as store:
        store.put(["a", "b"], some_tokens(2))
        store.put(["c"], some_tokens(1))
        assert blocks(store) == 2
        store.put(["a"], some_tokens(1, seed=3))
        assert blocks(store) == 3
        store.delete(["b"])
        assert blocks(store) == 2
        store.delete(["c", "a"])
        assert blocks(store) == 0
        # a new block must not take the number of one whose position is remembered
        store.put(["c"], some_tokens(1, seed=4))
        np.testing.assert_array_equal(store.get(["c"]), some_tokens(1, seed=4))


def test_replacing_again_and_again_keeps_the_file_small(tmp_path: Path, some_tokens: Make) -> None:
    ids = [f"p{number}" for number in range(1000)]
    with open_store(tmp_path / "s", dim=64) as store:
        for seed in range(20):
            store.put(ids, some_tokens(1000, seed=seed, dim=64))
            np.testing.assert_array_equal(store.get(ids[-1:]), some_tokens(1000, seed, dim=64)[-1:])
    assert (tmp_path / "s" / "data.mdb").stat().st_size < 4 * 1000 * 3 * 64 * 4


def test_ids_are_listed_across_batches_of_keys(
    tmp_path: Path, some_tokens: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "KEYS_PER_BATCH", 2)
    ids = ["a", "a\0", "b" * 511, "c", "d"]
    with open_store(tmp_path / "s") as store:
        store.put(ids, some_tokens(5))
        assert list(store) == ids
        for passage_id in store:
            store.delete([passage_id])
        assert len(store) == 0


def test_threads_may_share_a_store(tmp_path: Path, some_tokens: Make) -> None:
    ids = [f"p{number}" for number in range(200)]
    tokens = some_tokens(200)
    wrong: list[int] = []
    with open_store(tmp_path / "s", map_bytes=64 * 1024) as store:
        store.put(ids, tokens)

        def read(seed: int) -> None:
            rng = np.random.default_rng(seed)
            for _ in range(100):
                rows = rng.integers(0, 200, size=50)
                if (store.get([ids[row] for row in rows]) != tokens[rows]).any():
                    wrong.append(seed)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for step in range(40):
            store.put([f"new{step}-{number}" for number in range(200)], tokens)
        for thread in threads:
            thread.join()
    assert wrong == []


def test_other_settings_are_refused_and_both_are_named(tmp_path: Path) -> None:
    open_store(tmp_path / "s").close()
    with pytest.raises(
        StoreError,
        match="holds codec=float32, tokens_per_passage=3, dim=5, but codec=int8, "
        "tokens_per_passage=3, dim=5 was asked for",
    ):
        LmdbTokenStore.open(tmp_path / "s", tokens_per_passage=3, dim=5, codec="int8")
    with pytest.raises(StoreError, match=r"dim=5, but .*dim=6 was asked for"):
        open_store(tmp_path / "s", dim=6, readonly=True)
    open_store(tmp_path / "s").close()


def test_readonly_creates_nothing_and_takes_no_changes(tmp_path: Path, some_tokens: Make) -> None:
    with pytest.raises(StoreError, match=r"there is no store at .*absent: build one first"):
        open_store(tmp_path / "absent", readonly=True)
    assert list(tmp_path.iterdir()) == []
    with open_store(tmp_path / "s") as store:
        store.put(["a"], some_tokens(1))
    (tmp_path / "s" / "lock.mdb").unlink()
    with open_store(tmp_path / "s", readonly=True) as store:
        np.testing.assert_array_equal(store.get(["a"]), some_tokens(1))
        assert store.verify() == []
        with pytest.raises(StoreError, match="was opened readonly and takes no changes"):
            store.put(["b"], some_tokens(1))
        with pytest.raises(StoreError, match="was opened readonly and takes no changes"):
            store.delete(["a"])
    assert os.listdir(tmp_path / "s") == ["data.mdb"]


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path / "foreign")).close()
    with pytest.raises(StoreError, match="LMDB folder of another program: it has no settings"):
        open_store(tmp_path / "foreign", readonly=True)
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "data.mdb").write_bytes(b"junk" * 5000)
    for readonly in (False, True):
        with pytest.raises(StoreError, match=r"cannot open the store at .*damaged or not LMDB's"):
            open_store(tmp_path / "junk", readonly=readonly)
    (tmp_path / "file").write_text("text")
    with pytest.raises(StoreError, match=r"cannot open the store at .*file"):
        open_store(tmp_path / "file")


WRITER = """
import sys
import numpy as np
from dipair_index.stores.lmdb import LmdbTokenStore
ids = [f"p{n}" for n in range(300)]
with LmdbTokenStore.open(sys.argv[1], tokens_per_passage=3, dim=5, codec="float32") as store:
    for step in range(150):
        store.put(ids, np.full((300, 3, 5), step, "f4"))
"""


def test_a_reader_sees_a_put_whole_or_not_at_all(tmp_path: Path, some_tokens: Make) -> None:
    ids = [f"p{number}" for number in range(300)]
    with open_store(tmp_path / "s") as store:
        store.put(ids, np.zeros((300, 3, 5), np.float32))
    with open_store(tmp_path / "s", readonly=True) as reader:
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "s")], cwd=tmp_path)
        seen = set()
        while writer.poll() is None:
            values = np.unique(reader.get(ids)).tolist()
            assert len(values) == 1
            seen.update(values)
        assert writer.returncode == 0
        assert np.unique(reader.get(ids)).tolist() == [149]
        assert reader.verify() == []
    # it has seen more than the beginning
    assert len(seen) > 1


PUTTER = """
import sys
from itertools import count
import numpy as np
from dipair_index.stores.lmdb import LmdbTokenStore
with LmdbTokenStore.open(sys.argv[1], tokens_per_passage=3, dim=5, codec="float32") as store:
    for step in count(len(store) // 20):
        store.put([f"{step}-{n}" for n in range(20)], np.full((20, 3, 5), step, "f4"))
        sys.stdout.write(f"{step}\\n")
        sys.stdout.flush()
"""


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    last = -1
    for puts in (1, 9, 30, 77):
        with subprocess.Popen(
            [sys.executable, "-c", PUTTER, str(tmp_path / "s")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        ) as putter:
            assert putter.stdout is not None
            for _ in range(puts):
                last = int(putter.stdout.readline())
            putter.kill()
            # what it said before it was killed
            for line in putter.stdout:
                last = int(line)
        with open_store(tmp_path / "s") as store:
            assert store.verify() == []
            # the last put may have been done, but not told
            assert len(store) in (20 * (last + 1), 20 * (last + 2))
            ids = [f"{step}-{n}" for step in range(last + 1) for n in range(20)]
            assert (store.get(ids)[:, 0, 0] == np.repeat(np.arange(last + 1), 20)).all()


BYTES = {"float32": 4, "float16": 2, "int8": 1, "int6": 0.75, "int4": 0.5}


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_the_bytes_of_a_passage_on_disk(tmp_path: Path, codec: str) -> None:
    rng = np.random.default_rng(0)
    ids = [str(number) for number in range(995_904, 1_004_096)]
    with LmdbTokenStore.open(tmp_path / "s", tokens_per_passage=8, dim=256, codec=codec) as store:
        rows = rng.integers(0, 256, size=(2048, store.codec.bytes_per_passage), dtype=np.uint8)
        for start in range(0, len(ids), 2048):
            store.put_encoded(ids[start : start + 2048], rows)
    stored = sum(file.stat().st_size for file in (tmp_path / "s").iterdir()) / len(ids)
    assert stored <= 1.1 * 8 * 256 * BYTES[codec] + 16


def test_an_error_within_a_transaction_undoes_it(
    tmp_path: Path, some_tokens: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path / "s") as store:
        store.put(["a", "b"], some_tokens(2))

        def fail(block: int) -> bytes:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(lmdb_module, "block_key", fail)
            with pytest.raises(StoreError, match=r"cannot write to the store at .*Input/output"):
                store.put(["a", "c"], some_tokens(2, seed=1))
        assert list(store) == ["a", "b"]
        np.testing.assert_array_equal(store.get(["a", "b"]), some_tokens(2))
        with pytest.raises(MissingPassagesError):
            store.get(["c"])


FULL_DISK = """
import resource, sys
import numpy as np
from dipair_index.errors import StoreError
from dipair_index.stores.lmdb import LmdbTokenStore
from dipair_index.stores.passages import PassageStore
with LmdbTokenStore.open(sys.argv[1], tokens_per_passage=3, dim=64, codec="float32") as store:
    store.put(["kept"], np.full((1, 3, 64), 7, "f4"))
    # a write past this size fails, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
    tokens = np.ones((2000, 3, 64), "f4")
    ids = [f"p{n}" for n in range(1999)]
    try:
        store.put(["kept", *ids], tokens)
    except StoreError as error:
        sys.stdout.write(str(error))
    assert list(store) == ["kept"] and (store.get(["kept"]) == 7).all()
    store.put(["small"], tokens[:1])
    assert len(store) == 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 600_000))
    try:
        PassageStore.open(sys.argv[1] + "-new")
    except StoreError as error:
        sys.stdout.write(str(error))
"""


def test_a_full_disk_is_told_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"cannot write to the store at {path}: " in done.stdout
    assert "Nothing of this batch was stored: make room on the disk" in done.stdout
    assert f"cannot open the store at {path}-new: " in done.stdout
    with open_store(path, dim=64) as store:
        assert list(store) == ["kept", "small"]
        assert (store.get(["kept"]) == 7).all()
