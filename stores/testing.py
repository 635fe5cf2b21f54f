"""The contract of `TokenStore` as a test suite, for authors of other backends.

    class TestMyStore(TokenStoreContract):
        @pytest.fixture
        def open_store(self, tmp_path):
            return functools.partial(MyTokenStore.open, tmp_path / "store")

pytest then runs each test over every codec. Nothing else in the package imports this file.
"""
# ruff: noqa: D102 - the names of the tests are sentences

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import pytest

from dipair_index.errors import MissingPassagesError, SettingsError, StoreError
from dipair_index.records import FloatArray
from dipair_index.stores.codecs import open_codec
from dipair_index.stores.names import CODEC_NAMES
from dipair_index.stores.token_store import DictTokenStore, TokenStore

TOKENS, DIM = 3, 5


class OpenStore(Protocol):
    """A function that opens the same store at each call within a test."""

    def __call__(
        self, *, tokens_per_passage: int, dim: int, codec: str, readonly: bool = False
    ) -> TokenStore: ...


class TokenStoreContract:
    """The tests of a backend: inherit them and override the fixture `open_store`.

    The store must be absent before the first call of `open_store` in a test.
    """

    persistent = True
    """Whether passages are still there when the store is opened again."""

    @pytest.fixture
    def open_store(self) -> OpenStore:
        raise NotImplementedError("override the fixture open_store")

    @pytest.fixture(params=CODEC_NAMES)
    def codec(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def store(self, open_store: OpenStore, codec: str) -> Iterator[TokenStore]:
        with open_store(tokens_per_passage=TOKENS, dim=DIM, codec=codec) as opened:
            yield opened

    @pytest.fixture
    def reopen(self, open_store: OpenStore, codec: str) -> OpenStore:
        """Opens the store again; skips the test if the backend is not persistent."""
        if not self.persistent:
            pytest.skip("this store lives in memory")
        return open_store

    def test_get_returns_what_was_put_in_the_order_asked(
        self, store: TokenStore, codec: str
    ) -> None:
        tokens = some_tokens(4)
        store.put(["b", "a", "ü", "c"], tokens)
        asked = store.get(["c", "a", "c", "ü", "b"])
        assert asked.dtype == np.float32
        np.testing.assert_array_equal(asked, decoded(codec, tokens[[3, 1, 3, 2, 0]]))

    def test_it_agrees_with_the_oracle_over_many_batches(
        self, store: TokenStore, codec: str
    ) -> None:
        oracle = DictTokenStore(tokens_per_passage=TOKENS, dim=DIM, codec=codec)
        rng = np.random.default_rng(1)
        for step in range(12):
            ids = [f"p{number}" for number in rng.integers(0, 300, size=60)]
            tokens = some_tokens(60, seed=step)
            store.put(ids, tokens)
            oracle.put(ids, tokens)
            deleted_ids = list(oracle)[step::20]
            store.delete(deleted_ids)
            oracle.delete(deleted_ids)
        assert list(store) == list(oracle)
        assert len(store) == len(oracle)
        asked = rng.permutation(list(oracle)).tolist()
        np.testing.assert_array_equal(store.get(asked), oracle.get(asked))
        assert store.verify() == []

    def test_encoded_rows_are_copied_from_store_to_store_without_loss(
        self, store: TokenStore, codec: str
    ) -> None:
        other = DictTokenStore(tokens_per_passage=TOKENS, dim=DIM, codec=codec)
        other.put(["b", "a", "c"], some_tokens(3))
        store.put_encoded(["c", "b", "a"], other.get_encoded(["c", "b", "a"]))
        rows = store.get_encoded(["a", "b", "a", "c"])
        assert rows.dtype == np.uint8
        np.testing.assert_array_equal(rows, other.get_encoded(["a", "b", "a", "c"]))
        np.testing.assert_array_equal(store.get(["a", "b"]), other.get(["a", "b"]))
        store.put_encoded(["a", "d", "a"], rows[[0, 1, 3]])
        np.testing.assert_array_equal(store.get_encoded(["a", "d"]), rows[[3, 1]])

    def test_a_later_change_of_an_array_changes_nothing(
        self, store: TokenStore, codec: str
    ) -> None:
        tokens = some_tokens(2)
        store.put(["a", "b"], tokens)
        kept = tokens.copy()
        tokens[:] = 9
        store.get(["a", "b"])[:] = 7
        np.testing.assert_array_equal(store.get(["a", "b"]), decoded(codec, kept))
        rows = store.get_encoded(["a", "b"])
        kept_rows = rows.copy()
        store.put_encoded(["c", "d"], rows)
        rows[:] = 0
        np.testing.assert_array_equal(store.get_encoded(["a", "b"]), kept_rows)
        np.testing.assert_array_equal(store.get_encoded(["c", "d"]), kept_rows)

    def test_of_an_id_put_twice_the_last_counts(self, store: TokenStore, codec: str) -> None:
        tokens = some_tokens(5)
        store.put(["a", "b", "a"], tokens[:3])
        np.testing.assert_array_equal(store.get(["a", "b"]), decoded(codec, tokens[[2, 1]]))
        store.put(["b", "c"], tokens[3:])
        np.testing.assert_array_equal(store.get(["a", "b", "c"]), decoded(codec, tokens[[2, 3, 4]]))
        assert len(store) == 3

    def test_missing_ids_are_named_and_counted(self, store: TokenStore) -> None:
        store.put(["a"], some_tokens(1))
        asked = ["a", *(f"m{number}" for number in range(8)), "m0"]
        for get in (store.get, store.get_encoded):
            with pytest.raises(
                MissingPassagesError, match=r"^not in the store: m0, m1, m2, m3, m4 and 3 more$"
            ):
                get(asked)
        for nowhere in ["", "x" * 600, "\ud800"]:
            assert nowhere not in store
            with pytest.raises(MissingPassagesError):
                store.get([nowhere])
        assert 3 not in store

    def test_delete_is_all_or_nothing(self, store: TokenStore, codec: str) -> None:
        tokens = some_tokens(3)
        store.put(["a", "b", "c"], tokens)
        with pytest.raises(MissingPassagesError, match="not in the store: x"):
            store.delete(["a", "x"])
        assert list(store) == ["a", "b", "c"]
        store.delete(["a", "c", "a"])
        assert list(store) == ["b"]
        assert "a" not in store
        assert "b" in store
        store.put(["a"], tokens[2:])
        assert list(store) == ["a", "b"]
        np.testing.assert_array_equal(store.get(["b", "a"]), decoded(codec, tokens[1:]))

    def test_empty_batches_are_fine(self, store: TokenStore) -> None:
        store.put([], some_tokens(0))
        assert store.get([]).shape == (0, TOKENS, DIM)
        store.put_encoded([], store.get_encoded([]))
        store.delete([])
        assert len(store) == 0
        assert list(store) == []
        assert store.verify() == []

    def test_the_longest_id_is_kept_and_a_longer_one_refused(
        self, store: TokenStore, codec: str
    ) -> None:
        tokens = some_tokens(2)
        store.put(["é" * 255 + "x", "b"], tokens)
        np.testing.assert_array_equal(store.get(["é" * 255 + "x"]), decoded(codec, tokens[:1]))
        rows = store.get_encoded(["b", "b"])
        for wrong, reason in [
            ("é" * 256, "is 512 bytes long: an id may have 511 bytes at most"),
            ("", "a passage id is empty"),
            ("\ud800", "not valid Unicode"),
        ]:
            with pytest.raises(StoreError, match=reason):
                store.put(["new", wrong], tokens)
            with pytest.raises(StoreError, match=reason):
                store.put_encoded(["new", wrong], rows)
        assert "new" not in store

    @pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
    def test_a_batch_with_a_number_that_is_none_is_refused_whole(
        self, store: TokenStore, wrong: float
    ) -> None:
        tokens = some_tokens(3)
        tokens[1, 2, 3] = wrong
        with pytest.raises(StoreError, match="tokens of passage 'b' hold NaN or infinity"):
            store.put(["a", "b", "c"], tokens)
        assert len(store) == 0

    @pytest.mark.parametrize("shape", [(2, 3, 5), (3, 3, 4), (3, 2, 5), (3, 15)])
    def test_wrong_shapes_of_tokens_are_refused(
        self, store: TokenStore, shape: tuple[int, ...]
    ) -> None:
        with pytest.raises(SettingsError, match=r"= \(3, 3, 5\), got \(" + str(shape)[1:-1]):
            store.put(["a", "b", "c"], np.zeros(shape, np.float32))
        assert len(store) == 0

    def test_rows_of_another_shape_or_type_are_refused(self, store: TokenStore) -> None:
        width = store.codec.bytes_per_passage
        shapes = [((2, width), np.uint8), ((3, width - 1), np.uint8), ((3, width), np.int8)]
        for shape, kind in shapes:
            wrong: Any = np.zeros(shape, kind)
            with pytest.raises(SettingsError, match=rf"= \(3, {width}\), got {wrong.dtype} \("):
                store.put_encoded(["a", "b", "c"], wrong)
        assert len(store) == 0

    def test_rows_of_zeros_come_back_as_zeros(self, store: TokenStore) -> None:
        tokens = some_tokens(2)
        tokens[0, 1:] = 0
        tokens[1] = 0
        store.put(["short", "none"], tokens)
        got = store.get(["short", "none"])
        assert not got[0, 1:].any()
        assert not got[1].any()
        assert got[0, 0].any()

    def test_stored_bytes_grow_with_what_is_put(self, store: TokenStore) -> None:
        before = store.stored_bytes()
        ids = [f"p{number}" for number in range(2000)]
        store.put(ids, some_tokens(2000))
        # a backend may compress a little
        assert store.stored_bytes() - before > 0.8 * 2000 * store.codec.bytes_per_passage

    def test_a_store_is_a_context_manager_and_closes_twice(self, store: TokenStore) -> None:
        with store as same:
            assert same is store
        store.close()

    def test_what_was_put_is_there_when_reopened(self, reopen: OpenStore, codec: str) -> None:
        tokens = some_tokens(2)
        with reopen(tokens_per_passage=TOKENS, dim=DIM, codec=codec) as first:
            first.put(["b", "gone", "a"], tokens[[0, 0, 1]])
            first.delete(["gone"])
            rows = first.get_encoded(["b", "a"])
        for readonly in (False, True):
            with reopen(
                tokens_per_passage=TOKENS, dim=DIM, codec=codec, readonly=readonly
            ) as again:
                assert list(again) == ["a", "b"]
                np.testing.assert_array_equal(again.get(["b", "a"]), decoded(codec, tokens))
                np.testing.assert_array_equal(again.get_encoded(["b", "a"]), rows)
                assert again.verify() == []

    def test_a_readonly_store_takes_no_changes(self, reopen: OpenStore, codec: str) -> None:
        with pytest.raises(StoreError, match="there is no store at"):
            reopen(tokens_per_passage=TOKENS, dim=DIM, codec=codec, readonly=True)
        with reopen(tokens_per_passage=TOKENS, dim=DIM, codec=codec) as writer:
            writer.put(["a"], some_tokens(1))
        with reopen(tokens_per_passage=TOKENS, dim=DIM, codec=codec, readonly=True) as reader:
            rows = reader.get_encoded(["a"])
            with pytest.raises(StoreError, match="was opened readonly and takes no changes"):
                reader.put(["b"], some_tokens(1))
            with pytest.raises(StoreError, match="was opened readonly and takes no changes"):
                reader.put_encoded(["b"], rows)
            with pytest.raises(StoreError, match="was opened readonly and takes no changes"):
                reader.delete(["a"])
            assert list(reader) == ["a"]

    def test_other_settings_are_refused(self, reopen: OpenStore, codec: str) -> None:
        reopen(tokens_per_passage=TOKENS, dim=DIM, codec=codec).close()
        other = "float16" if codec == "float32" else "float32"
        asked = [(codec, TOKENS, DIM + 1), (codec, TOKENS + 1, DIM), (other, TOKENS, DIM)]
        for readonly in (False, True):
            for name, tokens, dim in asked:
                with pytest.raises(
                    StoreError,
                    match=rf"holds codec={codec}, tokens_per_passage={TOKENS}, dim={DIM}, but "
                    rf"codec={name}, tokens_per_passage={tokens}, dim={dim} was asked for",
                ):
                    reopen(tokens_per_passage=tokens, dim=dim, codec=name, readonly=readonly)

    def test_a_closed_store_says_so(self, reopen: OpenStore, codec: str) -> None:
        store = reopen(tokens_per_passage=TOKENS, dim=DIM, codec=codec)
        store.put(["a"], some_tokens(1))
        store.close()
        with pytest.raises(StoreError, match="is closed"):
            store.get(["a"])


def some_tokens(count: int, seed: int = 0) -> FloatArray:
    """Returns random tokens, (count, TOKENS, DIM)."""
    values = np.random.default_rng(seed).normal(size=(count, TOKENS, DIM))
    return values.astype(np.float32)


def decoded(codec: str, tokens: FloatArray) -> FloatArray:
    """Returns tokens after they were encoded and decoded by a codec."""
    opened = open_codec(codec, tokens_per_passage=TOKENS, dim=DIM)
    return opened.decode(opened.encode(tokens))
