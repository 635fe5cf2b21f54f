"""What TensorStoreTokenStore keeps in its files, and what becomes of it when they are damaged."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dipair_index.errors import StoreError
from dipair_index.records import FloatArray
from dipair_index.stores import id_table, zarr_rows
from dipair_index.stores.tensorstore import TensorStoreTokenStore


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


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("c.*"))


@pytest.mark.usefixtures("small_shards")
def test_a_batch_may_fill_several_shards(tmp_path: Path) -> None:
    ids = [f"p{number}" for number in range(21)]
    with open_store(tmp_path / "s") as store:
        store.put(ids, numbered(*range(21)))
        assert len(shards(tmp_path / "s")) == 3
        assert values(store, *ids[::-1]) == list(range(21))[::-1]
    with open_store(f"file://{tmp_path}/s", readonly=True) as store:
        assert values(store, *ids) == list(range(21))
        assert store.verify() == []


@pytest.mark.usefixtures("small_shards")
def test_shards_without_a_passage_are_deleted(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.put(["a", "b"], numbered(1, 2))
        first = shards(tmp_path / "s")
        store.put(["c"], numbered(3))
        store.put(["a"], numbered(4))
        assert len(shards(tmp_path / "s")) == 3
        store.delete(["b"])
        assert len(shards(tmp_path / "s")) == 2
        assert first[0] not in shards(tmp_path / "s")
        assert values(store, "a", "c") == [4, 3]
        store.delete(["a", "c"])
        assert shards(tmp_path / "s") == []
        assert store.verify() == []
    with open_store(tmp_path / "s") as store:
        assert list(store) == []
        store.put(["a"], numbered(5))
        assert values(store, "a") == [5]


@pytest.mark.usefixtures("small_shards")
def test_stored_bytes_are_those_of_all_files(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        for count in (1, 2, 3, 8, 9, 21, 5):
            store.put([f"{count}-{n}" for n in range(count)], numbered(*range(count)))
        store.delete(["1-0", "3-1"])
        on_disk = sum(path.stat().st_size for path in (tmp_path / "s").iterdir())
        assert store.stored_bytes() == on_disk
    with open_store(tmp_path / "s", readonly=True) as store:
        assert store.stored_bytes() == on_disk


def test_a_batch_of_a_build_takes_few_bytes_more_than_its_rows(tmp_path: Path) -> None:
    with TensorStoreTokenStore.open(
        tmp_path / "s", tokens_per_passage=8, dim=256, codec="int8"
    ) as store:
        rows = np.zeros((2048, store.codec.bytes_per_passage), np.uint8)
        store.put_encoded([f"passage-{number}" for number in range(2048)], rows)
        assert store.stored_bytes() / 2048 < 8 * 260 + 32


def flips(path: Path) -> Iterator[None]:
    """Flips one bit of the file at a time, somewhere in each third byte."""
    whole = path.read_bytes()
    generator = random.Random(path.stat().st_size)
    for at in range(generator.randrange(3), len(whole), 3):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        yield
    path.write_bytes(whole)


@pytest.mark.usefixtures("small_shards")
def test_a_flipped_bit_anywhere_is_found_and_its_object_named(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with open_store(folder) as store:
        store.put([f"p{number}" for number in range(11)], numbered(*range(11)))
        store.put(["p1", "q"], numbered(20, 21))
        store.delete(["p9"])
        assert store.verify() == []
        files = sorted(folder.iterdir())
        assert len(files) == 7
        for path in files:
            for _ in flips(path):
                (sentence,) = store.verify()
                assert str(path) in sentence
                if not path.name.startswith("c."):
                    with pytest.raises(StoreError, match=r"damaged|another program|has format"):
                        open_store(folder, readonly=True)
        assert store.verify() == []


@pytest.mark.usefixtures("small_shards")
def test_a_file_that_is_cut_or_gone_is_found_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with open_store(folder) as store:
        store.put([f"p{number}" for number in range(11)], numbered(*range(11)))
        store.put(["p1", "q"], numbered(20, 21))
        for path in sorted(folder.iterdir()):
            whole = path.read_bytes()
            for size in (len(whole) - 1, len(whole) // 2, 3, 0):
                path.write_bytes(whole[:size])
                (sentence,) = store.verify()
                assert str(path) in sentence
            path.unlink()
            (sentence,) = store.verify()
            assert str(path) in sentence
            path.write_bytes(whole)


@pytest.mark.usefixtures("small_shards")
def test_the_passages_that_are_damaged_are_named(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        ids = [f"p{number}" for number in range(8)]
        store.put(ids, numbered(*range(8)))
        store.delete(["p7"])
        (name,) = shards(tmp_path / "s")
        path = tmp_path / "s" / name
        whole = path.read_bytes()
        # two rows of 12 bytes and a checksum of 4 a chunk
        path.write_bytes(whole[:30] + b"!" + whole[31:])
        assert store.verify() == [f"{path} is damaged: cannot read p2, p3"]
        path.write_bytes(whole[:-1] + b"!")
        assert store.verify() == [f"{path} is damaged: cannot read p0, p1, p2, p3, p4 and 2 more"]


def test_a_change_that_is_missing_is_named_when_opening(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        for passage_id in "abc":
            store.put([passage_id], numbered(1))
    (tmp_path / "s" / "log.0000000000000001").unlink()
    with pytest.raises(StoreError, match=r"log.0000000000000001, .*is missing: restore it"):
        open_store(tmp_path / "s")


def test_a_newer_format_and_a_foreign_array_are_refused(tmp_path: Path) -> None:
    open_store(tmp_path / "s").close()
    metadata = tmp_path / "s" / "zarr.json"
    made = json.loads(metadata.read_bytes())
    made["attributes"]["dipair_index"]["format_version"] = 2
    metadata.write_text(json.dumps(made))
    with pytest.raises(StoreError, match=r"has format 2, but this .* reads 1: install a newer"):
        open_store(tmp_path / "s")
    made["attributes"] = {"of": "others"}
    metadata.write_text(json.dumps(made))
    with pytest.raises(StoreError, match="holds a zarr array of another program: choose another"):
        open_store(tmp_path / "s")
    with pytest.raises(StoreError, match="holds a zarr array of another program: it was not"):
        TensorStoreTokenStore.remove(tmp_path / "s")
    assert metadata.exists()


FULL_DISK = """
import resource, sys
import numpy as np
from dipair_index.errors import StoreError
from dipair_index.stores.tensorstore import TensorStoreTokenStore
sizes = {"tokens_per_passage": 3, "dim": 64}
with TensorStoreTokenStore.open(sys.argv[1], **sizes, codec="float32") as store:
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
    assert len(store) == 2 and store.verify() == []
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
    assert "make room on the disk and run it again" in done.stdout
    assert sorted(path.glob("*.__lock")) == []
    with TensorStoreTokenStore.open(path, tokens_per_passage=3, dim=64, codec="float32") as store:
        assert list(store) == ["kept", "small"]


def test_more_shards_are_read_than_files_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarr_rows, "SHARD_ROWS", 1)
    ids = [f"p{number}" for number in range(600)]
    with open_store(tmp_path / "s") as store:
        store.put(ids, numbered(*range(600)))
        files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
        for _ in range(2):
            assert values(store, *ids[::-1]) == list(range(600))[::-1]
        if files:
            assert len(os.listdir("/proc/self/fd")) <= files + 512
    if files:
        assert len(os.listdir("/proc/self/fd")) <= files


@pytest.mark.usefixtures("small_shards")
def test_chunks_in_another_order_are_read_as_well(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.put(["a", "b", "c"], numbered(1, 2, 3))
    (name,) = shards(tmp_path / "s")
    path = tmp_path / "s" / name
    whole = path.read_bytes()
    # two chunks of 28 bytes, and where they are
    index = np.frombuffer(whole[56:-4], "<u8")
    assert index.tolist() == [0, 28, 28, 28, *[2**64 - 1] * 4]
    swapped = index[[2, 3, 0, 1, 4, 5, 6, 7]].astype("<u8").tobytes()
    path.write_bytes(whole[28:56] + whole[:28] + swapped + crc32c(swapped))
    with open_store(tmp_path / "s", readonly=True) as store:
        assert values(store, "c", "a", "b") == [3, 1, 2]
        assert store.verify() == []


def crc32c(data: bytes) -> bytes:
    """The checksum of a zarr shard's index, bit by bit."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ 0x82F63B78 * (remainder & 1)
    return (remainder ^ 0xFFFFFFFF).to_bytes(4, "little")


def test_ids_with_the_same_hash_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the hash is the sum of the bytes now, and the largest of them are not told apart at all
    monkeypatch.setattr(id_table, "_MULTIPLIER", 1)
    ids = ["abc", "acb", "bac", "bca", "cab", "ab", "ba", "d", "é", "abc\0"]
    with open_store(tmp_path / "s") as store:
        for start in range(0, 10, 3):
            store.put(ids[start : start + 3], numbered(*range(start, min(start + 3, 10))))
        assert values(store, *ids) == list(range(10))
        assert [each in store for each in ("cba", "aa", "bad", "zz\0")] == [False] * 4
        store.delete(["acb"])
        store.put(["cab"], numbered(11))
        assert values(store, "cab", "abc", "bca") == [11, 0, 3]
    with open_store(tmp_path / "s", readonly=True) as store:
        assert "acb" not in store
        assert values(store, "cab", "abc", "bca") == [11, 0, 3]
