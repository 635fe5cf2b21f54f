import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dipair_index.errors import SettingsError, StoreError
from dipair_index.stores.codecs import CODEC_NAMES, open_codec

Tokens = npt.NDArray[np.float32]
TINY = float(np.finfo(np.float32).tiny)


def any_tokens(largest: float) -> st.SearchStrategy[Tokens]:
    limit = float(np.float32(largest))
    numbers = st.floats(-limit, limit, width=32)
    return arrays(
        np.float32, st.tuples(st.integers(0, 4), st.just(3), st.just(7)), elements=numbers
    )


def round_trip(name: str, tokens: Tokens) -> Tokens:
    codec = open_codec(name, tokens_per_passage=3, dim=7)
    rows = codec.encode(tokens)
    assert rows.shape == (len(tokens), codec.bytes_per_passage)
    return codec.decode(rows)


@given(any_tokens(np.finfo(np.float32).max))
def test_float32_is_exact(tokens: Tokens) -> None:
    np.testing.assert_array_equal(round_trip("float32", tokens), tokens)


@given(any_tokens(65504.0))
def test_float16_errs_by_half_a_step_at_most(tokens: Tokens) -> None:
    errors = np.abs(round_trip("float16", tokens) - tokens)
    # 2**-25 is half of float16's smallest step, below its normal numbers
    assert (errors <= np.maximum(np.abs(tokens) * 2.0**-11, 2.0**-25)).all()


@given(any_tokens(np.finfo(np.float32).max))
def test_int8_errs_by_half_a_scale_of_its_token_at_most(tokens: Tokens) -> None:
    errors = np.abs(round_trip("int8", tokens).astype(np.float64) - tokens)
    scales = np.abs(tokens).max(axis=2, keepdims=True).astype(np.float64) / 127
    # 1e-5: the scale and the product are float32; TINY: a scale may itself be lost below that
    assert (errors <= scales * (0.5 + 1e-5) + TINY).all()


@pytest.mark.parametrize("name", CODEC_NAMES)
@given(tokens=any_tokens(100.0))
def test_passages_do_not_affect_each_other(name: str, tokens: Tokens) -> None:
    whole = round_trip(name, tokens)
    for row in range(len(tokens)):
        np.testing.assert_array_equal(round_trip(name, tokens[row : row + 1]), whole[row : row + 1])


@pytest.mark.parametrize(("name", "expected"), [("float32", 84), ("float16", 42), ("int8", 33)])
def test_bytes_of_a_passage(name: str, expected: int) -> None:
    assert open_codec(name, tokens_per_passage=3, dim=7).bytes_per_passage == expected


def test_int8_by_hand() -> None:
    """A largest magnitude of 2.54 makes the scale 0.02: 1.0 is 50 steps, 0.013 rounds to one."""
    codec = open_codec("int8", tokens_per_passage=1, dim=4)
    tokens = np.array([[[2.54, -1.0, 0.013, 0.0]]], np.float32)
    rows = codec.encode(tokens)
    assert rows[0, :4].view(np.int8).tolist() == [127, -50, 1, 0]
    np.testing.assert_allclose(codec.decode(rows), [[[2.54, -1.0, 0.02, 0.0]]], rtol=1e-6)


def test_float16_refuses_what_it_cannot_hold() -> None:
    codec = open_codec("float16", tokens_per_passage=1, dim=1)
    with pytest.raises(StoreError, match="holds 70000, but float16 ends at 65504: use the codec"):
        codec.encode(np.array([[[70000.0]]], np.float32))


def test_unknown_codecs_and_empty_shapes_are_refused() -> None:
    with pytest.raises(SettingsError, match="unknown codec 'int7': choose one of float32, float16"):
        open_codec("int7", tokens_per_passage=1, dim=1)
    with pytest.raises(SettingsError, match="must be 1 or more, got 0 and 4"):
        open_codec("int8", tokens_per_passage=0, dim=4)
