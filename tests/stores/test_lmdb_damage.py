"""Damage to an LMDB store is found and named, and never read as if it were whole."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dipair_index.errors import StoreError
from dipair_index.records import FloatArray
from dipair_index.stores.lmdb import LmdbTokenStore

Make = Callable[..., FloatArray]


def open_store(path: Path, *, readonly: bool = False) -> LmdbTokenStore:
    return LmdbTokenStore.open(
        path, tokens_per_passage=3, dim=5, codec="float32", readonly=readonly
    )


def test_another_format_is_refused(tmp_path: Path) -> None:
    settings = {"codec": "float32", "tokens_per_passage": 3, "dim": 5}
    for number, written in ((1, settings), (3, {"format": 3, **settings})):
        with open_store(tmp_path / "s") as store:
            change(store, "settings", b"token_store", json.dumps(written).encode())
        with pytest.raises(
            StoreError,
            match=f"has format {number}, but this version of dipair-index reads format 2: use the "
            "version that wrote it, or build it again",
        ):
            open_store(tmp_path / "s", readonly=True)
        LmdbTokenStore.remove(tmp_path / "s")


@pytest.mark.parametrize("damaged", [b"{", b"[]", b"\xff"])
def test_damaged_settings_are_told(tmp_path: Path, damaged: bytes) -> None:
    with open_store(tmp_path / "s") as store:
        change(store, "settings", b"token_store", damaged)
    with pytest.raises(
        StoreError, match=r"settings of the store at .* are damaged: build it again"
    ):
        open_store(tmp_path / "s")


LONG_ID = "c-which-is-nowhere-else-in-the-file"


@pytest.fixture
def filled(tmp_path: Path, some_tokens: Make) -> Path:
    """Block 0 holds a0 to a7, block 1 holds b0, b1 and one with a long id."""
    with open_store(tmp_path / "s") as store:
        store.put([f"a{number}" for number in range(8)], some_tokens(8))
        store.put(["b0", "b1", LONG_ID], some_tokens(3, seed=1))
    return tmp_path / "s"


def change(store: LmdbTokenStore, name: str, key: bytes, value: bytes | None) -> None:
    """Puts or deletes behind the store's back."""
    database = store._env.databases[name]
    if value is None:
        store._env.write(lambda txn: txn.delete(key, db=database))
    else:
        store._env.write(lambda txn: txn.put(key, value, db=database))


def test_each_flipped_byte_of_a_passage_is_found_and_the_passages_are_named(filled: Path) -> None:
    file = filled / "data.mdb"
    whole = file.read_bytes()
    with open_store(filled, readonly=True) as store:
        rows = store.get_encoded(["a1", "b1"])
    for row, expected in (
        (rows[0], "block 0 has other bytes than were stored: it holds a0, a1, a2, a3, a4 and 3"),
        (rows[1], "block 1 has other bytes than were stored: it holds b0, b1, c-"),
    ):
        # LMDB's unused space may hold the same bytes
        starts = [match.start() for match in re.finditer(re.escape(row.tobytes()), whole)]
        for place in range(0, len(row), 7):
            damaged = bytearray(whole)
            for start in starts:
                damaged[start + place] ^= 1
            file.write_bytes(damaged)
            with open_store(filled, readonly=True) as store:
                (found,) = store.verify()
            assert found.startswith(f"the store at {filled} is damaged: {expected}")
    file.write_bytes(whole)
    with open_store(filled, readonly=True) as store:
        assert store.verify() == []


def test_a_changed_id_is_found(filled: Path) -> None:
    file = filled / "data.mdb"
    file.write_bytes(file.read_bytes().replace(b"c-which", b"c-\xffhich"))
    with open_store(filled, readonly=True) as store:
        (found,) = store.verify()
        assert re.search(r"block 1 has other passages .*: it holds b0, b1, c-\\xffhich", found)
        with pytest.raises(StoreError, match=r"utf-8.* is damaged or not LMDB's: restore it or"):
            list(store)


@pytest.mark.parametrize(
    ("name", "key", "value", "found", "refused"),
    [
        ("segments", b"\0\0\0\1", None, "block 1 is missing: it holds b0, b1, c-", "is missing"),
        ("segments", b"\0\0\0\1", b"short", "block 1 has other bytes", "outside its block"),
        ("segments", b"\0\0\0\7", b"more", "block 7 has no record of its ids: it holds no", ""),
        ("live", b"\0\0\0\1", None, "block 1 has no record of its ids: it holds b0, b1, c-", ""),
        ("live", b"\0\0\0\1", b"odd", "block 1 has no record of its ids: it holds b0, b1, c-", ""),
        ("rows", b"b0", b"\1\0\0\0\xff\0", "block 1 has other", "outside its block"),
        ("rows", b"b0", b"\0\0\0\0\0\0", "block 0 has other passages than", ""),
        (
            "rows",
            b"b0",
            b"\7\0\0\0\0\0",
            "block 7 is missing: it holds b0",
            "was never written",
        ),
        (
            "rows",
            b"b0",
            b"odd",
            "cannot look up b0: their positions are damaged",
            "has no position",
        ),
        ("rows", b"new", b"\1\0\0\0\0\0", "block 1 has other passages than were", ""),
        ("rows", b"b1", None, "block 1 has other passages than were stored: it holds b0", ""),
        ("settings", b"next_segment", b"\1", "number of the next block is damaged: put no", ""),
    ],
)
def test_what_does_not_agree_is_found(
    filled: Path, name: str, key: bytes, value: bytes | None, found: str, refused: str
) -> None:
    with open_store(filled) as store:
        change(store, name, key, value)
        assert any(found in each for each in store.verify())
        if refused:
            with pytest.raises(StoreError, match=f"is damaged .*{refused}.*: build it again"):
                store.get(["b0"])


def test_a_change_of_what_is_not_accounted_for_is_refused(filled: Path, some_tokens: Make) -> None:
    with open_store(filled) as store:
        change(store, "live", b"\0\0\0\1", None)
        with pytest.raises(StoreError, match="the ids of a block are not recorded"):
            store.delete(["b0"])
        with pytest.raises(StoreError, match="the ids of a block are not recorded"):
            store.put(["b1", "c"], some_tokens(2))
        assert "c" not in store


def test_damage_that_lmdb_itself_finds_is_told(filled: Path) -> None:
    file = filled / "data.mdb"
    whole = bytearray(file.read_bytes())
    for found in re.finditer(LONG_ID.encode(), bytes(whole)):
        # what kind of page the ids are on
        whole[found.start() // 4096 * 4096 + 10] = 0
    file.write_bytes(whole)
    with open_store(filled, readonly=True) as store:
        (sentence,) = store.verify()
    assert sentence.startswith(f"cannot read the store at {filled}: ")
    assert sentence.endswith("is damaged or not LMDB's: restore it or build it again")


PROGRAM = """
import sys
from zlib import crc32
from dipair_index.errors import StoreError
from dipair_index.stores.lmdb import LmdbTokenStore
try:
    with LmdbTokenStore.open(
        sys.argv[1], tokens_per_passage=3, dim=5, codec="float32", readonly=True
    ) as store:
        if not store.verify():
            ids = list(store)
            sys.stdout.write(str(crc32(store.get_encoded(ids), crc32(repr(ids).encode()))))
except StoreError:
    pass
"""


@pytest.mark.slow
def test_no_flipped_byte_goes_unnoticed_unless_nothing_stands_there(
    tmp_path: Path, some_tokens: Make
) -> None:
    def read() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "s")]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    ids = [f"p{number}" for number in range(1000)]
    with open_store(tmp_path / "s") as store:
        for start in range(0, 1000, 100):
            store.put(ids[start : start + 100], some_tokens(100, seed=start))
        store.delete(ids[::7])
    file = tmp_path / "s" / "data.mdb"
    whole = file.read_bytes()
    (tmp_path / "s" / "lock.mdb").unlink()
    expected = read().stdout
    assert expected
    rng = np.random.default_rng(0)
    found = crashed = 0
    for place in rng.integers(0, len(whole), size=150).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        done = read()
        assert done.stdout in ("", expected), place
        # LMDB trusts its own pages, and may follow a damaged one out of the file
        crashed += done.returncode < 0
        found += done.returncode == 0 and not done.stdout
        assert done.returncode <= 0, done.stderr
    assert found > 30
    assert crashed <= 3
