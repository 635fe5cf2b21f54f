"""What every token store keeps to, whatever its backend and codec."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dipair_index.errors import MissingPassagesError, SettingsError, StoreError
from dipair_index.records import FloatArray
from dipair_index.stores.codecs import open_codec
from dipair_index.stores.lmdb import LmdbTokenStore
from dipair_index.stores.token_store import DictTokenStore, TokenStore

Make = Callable[..., FloatArray]
TOKENS, DIM = 3, 5


def decoded(codec: str, tokens: FloatArray) -> FloatArray:
    kept = open_codec(codec, tokens_per_passage=TOKENS, dim=DIM)
    return kept.decode(kept.encode(tokens))


def test_get_returns_what_was_put_in_the_order_asked(
    store: TokenStore, codec: str, some_tokens: Make
) -> None:
    tokens = some_tokens(4)
    store.put(["b", "a", "ü", "c"], tokens)
    asked = store.get(["c", "a", "c", "ü", "b"])
    assert asked.dtype == np.float32
    np.testing.assert_array_equal(asked, decoded(codec, tokens[[3, 1, 3, 2, 0]]))


def test_it_agrees_with_the_oracle_over_many_batches(
    store: TokenStore, oracle: DictTokenStore, some_tokens: Make
) -> None:
    rng = np.random.default_rng(1)
    for step in range(12):
        ids = [f"p{number}" for number in rng.integers(0, 300, size=60)]
        tokens = some_tokens(60, seed=step)
        store.put(ids, tokens)
        oracle.put(ids, tokens)
        gone = list(oracle)[step::20]
        store.delete(gone)
        oracle.delete(gone)
    assert list(store) == list(oracle)
    assert len(store) == len(oracle)
    asked = rng.permutation(list(oracle)).tolist()
    np.testing.assert_array_equal(store.get(asked), oracle.get(asked))


def test_a_later_change_of_the_array_changes_nothing(
    store: TokenStore, codec: str, some_tokens: Make
) -> None:
    tokens = some_tokens(2)
    store.put(["a", "b"], tokens)
    kept = tokens.copy()
    tokens[:] = 9
    first = store.get(["a", "b"])
    first[:] = 7
    np.testing.assert_array_equal(store.get(["a", "b"]), decoded(codec, kept))


def test_of_an_id_put_twice_the_last_counts(
    store: TokenStore, codec: str, some_tokens: Make
) -> None:
    tokens = some_tokens(5)
    store.put(["a", "b", "a"], tokens[:3])
    np.testing.assert_array_equal(store.get(["a", "b"]), decoded(codec, tokens[[2, 1]]))
    store.put(["b", "c"], tokens[3:])
    np.testing.assert_array_equal(store.get(["a", "b", "c"]), decoded(codec, tokens[[2, 3, 4]]))
    assert len(store) == 3


def test_missing_ids_are_named_and_counted(store: TokenStore, some_tokens: Make) -> None:
    store.put(["a"], some_tokens(1))
    asked = ["a", *(f"m{number}" for number in range(8))]
    with pytest.raises(MissingPassagesError, match=r"^not in the store: m0, m1, m2, m3, m4 and 3"):
        store.get(asked)
    for nowhere in ["", "x" * 600, "\ud800"]:
        assert nowhere not in store
        with pytest.raises(MissingPassagesError):
            store.get([nowhere])
    assert 3 not in store


def test_delete_is_all_or_nothing(store: TokenStore, some_tokens: Make) -> None:
    store.put(["a", "b", "c"], some_tokens(3))
    with pytest.raises(MissingPassagesError, match="not in the store: x"):
        store.delete(["a", "x"])
    assert list(store) == ["a", "b", "c"]
    store.delete(["a", "c", "a"])
    assert list(store) == ["b"]
    assert "a" not in store
    assert "b" in store
    store.put(["a"], some_tokens(1))
    assert list(store) == ["a", "b"]


def test_empty_batches_are_fine(store: TokenStore, some_tokens: Make) -> None:
    store.put([], some_tokens(0))
    assert store.get([]).shape == (0, TOKENS, DIM)
    store.delete([])
    assert len(store) == 0
    assert list(store) == []


def test_the_longest_id_is_kept_and_a_longer_one_refused(
    store: TokenStore, codec: str, some_tokens: Make
) -> None:
    tokens = some_tokens(2)
    store.put(["é" * 255 + "x", "b"], tokens)
    np.testing.assert_array_equal(store.get(["é" * 255 + "x"]), decoded(codec, tokens[:1]))
    with pytest.raises(StoreError, match="is 512 bytes long: an id may have 511 bytes at most"):
        store.put(["new", "é" * 256], tokens)
    with pytest.raises(StoreError, match="a passage id is empty"):
        store.put(["new", ""], tokens)
    with pytest.raises(StoreError, match="not valid Unicode"):
        store.put(["new", "\ud800"], tokens)
    assert "new" not in store


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_batch_with_a_number_that_is_none_is_refused_whole(
    store: TokenStore, some_tokens: Make, wrong: float
) -> None:
    tokens = some_tokens(3)
    tokens[1, 2, 3] = wrong
    with pytest.raises(StoreError, match="tokens of passage 'b' hold NaN or infinity"):
        store.put(["a", "b", "c"], tokens)
    assert len(store) == 0


@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 3, 4), (3, 2, 5), (3, 15)])
def test_wrong_shapes_are_refused(store: TokenStore, shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match=r"= \(3, 3, 5\), got \(" + str(shape)[1:-1]):
        store.put(["a", "b", "c"], np.zeros(shape, np.float32))
    assert len(store) == 0


def test_rows_of_zeros_come_back_as_zeros(store: TokenStore, some_tokens: Make) -> None:
    tokens = some_tokens(2)
    tokens[0, 1:] = 0
    tokens[1] = 0
    store.put(["short", "none"], tokens)
    got = store.get(["short", "none"])
    assert not got[0, 1:].any()
    assert not got[1].any()
    assert got[0, 0].any()


def test_a_store_is_a_context_manager_and_closes_twice(store: TokenStore) -> None:
    with store as same:
        assert same is store
    store.close()


def test_what_was_put_is_there_when_reopened(tmp_path: Path, codec: str, some_tokens: Make) -> None:
    tokens = some_tokens(2)
    settings = {"tokens_per_passage": TOKENS, "dim": DIM, "codec": codec}
    with LmdbTokenStore.open(tmp_path / "s", **settings) as first:  # type: ignore[arg-type]
        first.put(["b", "a"], tokens)
    for readonly in (False, True):
        with LmdbTokenStore.open(
            tmp_path / "s", tokens_per_passage=TOKENS, dim=DIM, codec=codec, readonly=readonly
        ) as again:
            assert list(again) == ["a", "b"]
            np.testing.assert_array_equal(again.get(["b", "a"]), decoded(codec, tokens))
