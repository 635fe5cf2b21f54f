"""What TensorStoreTokenStore promises, in a folder, in memory and on a server that speaks S3."""

import functools
import threading
from pathlib import Path

import numpy as np
import pytest

from dipair_index.errors import StoreError
from dipair_index.records import FloatArray
from dipair_index.stores import locations, zarr_rows
from dipair_index.stores.locations import Location
from dipair_index.stores.tensorstore import TensorStoreTokenStore
from dipair_index.stores.testing import OpenStore, TokenStoreContract


class TestInAFolder(TokenStoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return functools.partial(TensorStoreTokenStore.open, tmp_path / "store")


class TestInMemory(TokenStoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return functools.partial(TensorStoreTokenStore.open, f"memory:/{tmp_path}")


class TestInABucket(TokenStoreContract):
    @pytest.fixture
    def open_store(self, bucket: str, tmp_path: Path) -> OpenStore:
        return functools.partial(TensorStoreTokenStore.open, f"{bucket}{tmp_path}")

    @pytest.fixture(params=["int8"])
    def codec(self, request: pytest.FixtureRequest) -> str:
        # what a codec makes of tokens is not the bucket's affair
        return str(request.param)


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


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as writer:
        writer.put(["a", "b"], numbered(1, 2))
        with open_store(tmp_path / "s", readonly=True) as reader:
            writer.put(["c", "a"], numbered(3, 4))
            # nothing is missing, so nothing is looked for
            assert values(reader, "a") == [1]
            assert "c" in reader
            assert values(reader, "a", "c") == [4, 3]
            writer.delete(["b"])
            assert len(reader) == 2
            writer.put(["d"], numbered(5))
            assert list(reader) == ["a", "c", "d"]
            writer.put(["e"], numbered(6))
            assert reader.stored_bytes() == writer.stored_bytes()
            assert values(reader, "e") == [6]


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_readers_see_old_or_new_and_never_a_mixture(tmp_path: Path, place: str) -> None:
    location = str(tmp_path / "s") if place == "folder" else f"memory:/{tmp_path}"
    ids = [f"p{number}" for number in range(50)]
    wrong: list[object] = []
    done = threading.Event()
    with open_store(location) as writer:
        writer.put(ids, numbered(*[0] * 50))

        def read() -> None:
            latest = 0.0
            with open_store(location, readonly=True) as reader:
                while not done.is_set():
                    # the old shard is gone as soon as all of it is replaced
                    seen = set(values(reader, *ids))
                    if len(seen) != 1 or min(seen) < latest or len(reader) != 50:
                        wrong.append(seen)
                    latest = min(seen)

        def checked_read() -> None:
            try:
                read()
            except Exception as error:
                wrong.append(error)

        readers = [threading.Thread(target=checked_read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for step in range(1, 30):
            writer.put(ids, numbered(*[step] * 50))
        done.set()
        for reader in readers:
            reader.join()
    assert wrong == []


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_two_writers_take_in_each_others_changes(tmp_path: Path, bucket: str, place: str) -> None:
    location = str(tmp_path / "s") if place == "folder" else f"{bucket}{tmp_path}"
    with open_store(location) as one, open_store(location) as other:
        one.put(["a", "b"], numbered(1, 2))
        other.put(["b", "c"], numbered(3, 4))
        one.delete(["c"])
        other.put(["d"], numbered(5))
        for store in (one, other):
            assert list(store) == ["a", "b", "d"]
            assert values(store, "a", "b", "d") == [1, 3, 5]
        assert one.verify() == []


def test_rows_in_a_bucket_are_checked_when_they_are_read(bucket: str, tmp_path: Path) -> None:
    location = f"{bucket}{tmp_path}"
    with open_store(location) as store:
        store.put(["a", "b"], numbered(1, 2))
    objects = Location(location).store
    (name,) = [key for key in objects.list().result() if key.startswith(b"c.")]
    whole = objects[name]
    objects[name] = whole[:5] + b"!" + whole[6:]
    # as in another process
    locations.context.cache_clear()
    with open_store(location, readonly=True) as store:
        with pytest.raises(StoreError, match="DATA_LOSS: .*`verify` names the passages"):
            store.get(["b"])
        assert store.verify() == [f"{location}/{name.decode()} is damaged: cannot read a, b"]


@pytest.mark.parametrize("place", ["folder", "memory", "bucket"])
def test_a_store_is_removed_whole_and_nothing_else(tmp_path: Path, bucket: str, place: str) -> None:
    location = {
        "folder": str(tmp_path / "s"),
        "memory": f"memory:/{tmp_path}",
        "bucket": f"{bucket}{tmp_path}",
    }[place]
    TensorStoreTokenStore.remove(location)
    for neighbour in (location, f"{location}-too"):
        with open_store(neighbour) as store:
            store.put(["a", "b"], numbered(1, 2))
            store.put(["a"], numbered(3))
    TensorStoreTokenStore.remove(location)
    with pytest.raises(StoreError, match="there is no store at"):
        open_store(location, readonly=True)
    assert Location(location).store.list().result() == []
    with open_store(f"{location}-too", readonly=True) as store:
        assert values(store, "a", "b") == [3, 2]
    assert not (tmp_path / "s").exists()
    # what was cached of the old one is not taken for the new one's
    with open_store(location) as store:
        store.put(["b", "a"], numbered(5, 6))
        assert values(store, "a", "b") == [6, 5]


def test_files_of_others_stay_in_a_folder_and_those_of_a_killed_writer_go(tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        with open_store(tmp_path / name) as store:
            store.put(["a"], numbered(1))
        (tmp_path / name / "c.77.0.__lock").write_bytes(b"")
    (tmp_path / "theirs" / "notes.txt").write_text("keep")
    for name in ("mine", "theirs"):
        TensorStoreTokenStore.remove(tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["theirs", "notes.txt"]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("ftp://host/store", r"unsupported URL scheme .*it may be a folder, file://, s3://"),
        ("s3://x/store", "Invalid S3 bucket name"),
        ("s3://nobody-has-it/store", "bucket does not exist: make the bucket first"),
        ("{tmp_path}/file/store", "Failed to open directory"),
    ],
)
def test_a_location_that_cannot_be_is_told(
    tmp_path: Path, bucket: str, location: str, reason: str
) -> None:
    (tmp_path / "file").write_text("text")
    location = location.format(tmp_path=tmp_path)
    with pytest.raises(StoreError, match=rf"cannot open the store at {location}: .*{reason}"):
        open_store(location)


def test_an_endpoint_that_does_not_answer_is_told(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locations, "RETRIES", {"max_retries": 2, "initial_delay": "10ms"})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    locations.context.cache_clear()
    with pytest.raises(
        StoreError, match=r"cannot open the store at s3://passages/x: .*check the endpoint"
    ):
        open_store("s3://passages/x")
    locations.context.cache_clear()


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_wide_rows_are_kept_wherever_their_shards_fall(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards are numbered at random, and the byte at which a row stands has to be a number too."""
    location = tmp_path / "s" if place == "folder" else "memory://wide/"
    monkeypatch.setattr(zarr_rows.secrets, "randbelow", lambda shards: shards - 1)
    tokens = np.random.default_rng(0).normal(size=(3, 64, 1024)).astype(np.float32)
    with TensorStoreTokenStore.open(
        location, tokens_per_passage=64, dim=1024, codec="float32"
    ) as store:
        store.put(["a", "b", "c"], tokens)
        np.testing.assert_array_equal(store.get(["c", "a"]), tokens[[2, 0]])
        assert store.verify() == []
