import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dipair_index.errors import SettingsError, StoreError
from dipair_index.stores.codecs import _CODECS, open_codec
from dipair_index.stores.names import CODEC_NAMES

Tokens = npt.NDArray[np.float32]
TINY = float(np.finfo(np.float32).tiny)


def any_tokens(largest: float, tokens: int = 3, dim: int = 7) -> st.SearchStrategy[Tokens]:
    limit = float(np.float32(largest))
    numbers = st.floats(-limit, limit, width=32)
    shape = st.tuples(st.integers(0, 4), st.just(tokens), st.just(dim))
    return arrays(np.float32, shape, elements=numbers)


def round_trip(name: str, tokens: Tokens) -> Tokens:
    codec = open_codec(name, tokens_per_passage=tokens.shape[1], dim=tokens.shape[2])
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


def assert_int4_keeps_its_bound(tokens: Tokens, group: int) -> None:
    errors = np.abs(round_trip("int4", tokens).astype(np.float64) - tokens)
    groups = tokens.reshape(*tokens.shape[:2], tokens.shape[2] // group, group).astype(np.float64)
    spans = np.maximum(groups.max(axis=3), 0) - np.minimum(groups.min(axis=3), 0)
    # 1e-6 for float32's own rounding; TINY: a step may itself be lost below that
    bounds = (spans / 28 * (1 + 1e-6) + TINY).repeat(group, axis=2)
    assert (errors <= bounds).all()


@given(any_tokens(2.0**126))
def test_int4_errs_by_a_28th_of_the_span_of_its_token_at_most(tokens: Tokens) -> None:
    assert_int4_keeps_its_bound(tokens, 7)


@given(any_tokens(2.0**126, tokens=1, dim=32))
def test_int4_errs_by_a_28th_of_the_span_of_16_numbers_in_the_first_token(tokens: Tokens) -> None:
    assert_int4_keeps_its_bound(tokens, 16)


@pytest.mark.parametrize(("token", "group"), [(0, 16), (1, 256), (7, 256)])
def test_an_outlier_costs_int4_the_precision_of_its_group_alone(token: int, group: int) -> None:
    tokens = np.full((1, 8, 512), 0.75, np.float32)
    tokens[0, token, 260] = 1000.0
    decoded = round_trip("int4", tokens)
    lost = np.zeros_like(tokens, dtype=bool)
    lost[0, token, 256 : 256 + group] = True
    lost[0, token, 260] = False
    assert (decoded[lost] == 0).all()
    np.testing.assert_allclose(decoded[~lost], tokens[~lost], rtol=0.04)


def test_all_codecs_are_named() -> None:
    assert tuple(_CODECS) == CODEC_NAMES


@pytest.mark.parametrize("name", CODEC_NAMES)
@given(tokens=any_tokens(65504.0), zeros=arrays(np.bool_, (3, 7)))
def test_zeros_come_back_as_zeros(name: str, tokens: Tokens, zeros: npt.NDArray[np.bool_]) -> None:
    tokens = np.where(zeros, np.float32(0), tokens)
    assert (round_trip(name, tokens)[:, zeros] == 0).all()


@pytest.mark.parametrize("name", CODEC_NAMES)
@given(tokens=any_tokens(100.0))
def test_passages_do_not_affect_each_other(name: str, tokens: Tokens) -> None:
    whole = round_trip(name, tokens)
    for row in range(len(tokens)):
        np.testing.assert_array_equal(round_trip(name, tokens[row : row + 1]), whole[row : row + 1])


@pytest.mark.parametrize(
    ("name", "tokens", "dim", "expected"),
    [
        ("float32", 3, 7, 84),
        ("float16", 3, 7, 42),
        ("int8", 3, 7, 33),
        # 21 numbers in 11 bytes, a group a token
        ("int4", 3, 7, 17),
        # 2048 numbers, 16 groups in the first token and one in each of the others
        ("int4", 8, 256, 1070),
        # 2400 numbers, 20 groups of 15 and 7 times 2 of 150
        ("int4", 8, 300, 1268),
    ],
)
def test_bytes_of_a_passage(name: str, tokens: int, dim: int, expected: int) -> None:
    assert open_codec(name, tokens_per_passage=tokens, dim=dim).bytes_per_passage == expected


def test_int8_by_hand() -> None:
    """A largest magnitude of 2.54 makes the scale 0.02: 1.0 is 50 steps, 0.013 rounds to one."""
    codec = open_codec("int8", tokens_per_passage=1, dim=4)
    tokens = np.array([[[2.54, -1.0, 0.013, 0.0]]], np.float32)
    rows = codec.encode(tokens)
    assert rows[0, :4].view(np.int8).tolist() == [127, -50, 1, 0]
    np.testing.assert_allclose(codec.decode(rows), [[[2.54, -1.0, 0.02, 0.0]]], rtol=1e-6)


def test_int4_by_hand() -> None:
    """From -3 to 12 the step is 1 and level 3 means zero; from 0 to 30 it is 2, from level 0."""
    codec = open_codec("int4", tokens_per_passage=2, dim=3)
    rows = codec.encode(np.array([[[-3.0, 12.0, 0.6], [30.0, 0.0, 4.9]]], np.float32))
    # the first three levels are 0, 15 and 4, the other three 15, 0 and 2
    assert rows[0, :3].tolist() == [0xF0, 0x0F, 0x24]
    # 1.0 has the exponent 127 of float32, 2.0 has 128; both have an empty mantissa
    assert rows[0, 3:].view("<u2").tolist() == [127 << 8 | 3, 128 << 8]
    expected = [[[-3.0, 12.0, 1.0], [30.0, 0.0, 4.0]]]
    np.testing.assert_array_equal(codec.decode(rows), expected)


def test_int4_keeps_a_symmetric_span_of_15_steps_within_its_16_levels() -> None:
    """Both ends lie half a step from a level, and rounding both away from zero takes 17 levels."""
    tokens = np.array([[[-7.5, 7.5]]], np.float32)
    np.testing.assert_array_equal(round_trip("int4", tokens), [[[-8.0, 7.0]]])


def test_int4_refuses_what_it_cannot_hold() -> None:
    codec = open_codec("int4", tokens_per_passage=1, dim=2)
    with pytest.raises(StoreError, match=r"holds 1e\+38, but int4 ends at 8.50706e\+37: use"):
        codec.encode(np.array([[[0.0, -1e38]]], np.float32))


def test_float16_refuses_what_it_cannot_hold() -> None:
    codec = open_codec("float16", tokens_per_passage=1, dim=1)
    with pytest.raises(StoreError, match="holds 70000, but float16 ends at 65504: use the codec"):
        codec.encode(np.array([[[70000.0]]], np.float32))


def test_unknown_codecs_and_empty_shapes_are_refused() -> None:
    with pytest.raises(SettingsError, match="unknown codec 'int7': choose one of float32, float16"):
        open_codec("int7", tokens_per_passage=1, dim=1)
    with pytest.raises(SettingsError, match="must be 1 or more, got 0 and 4"):
        open_codec("int8", tokens_per_passage=0, dim=4)
