"""Codecs of token embeddings: float32, float16, int8, int6 and int4."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dipair_index.errors import SettingsError, StoreError
from dipair_index.records import FloatArray
from dipair_index.stores.names import CODEC_NAMES

EncodedRows = npt.NDArray[np.uint8]
"""(passages, bytes_per_passage)"""

_LARGEST_OF_INT4 = 2.0**126
_STEP_SHIFT = np.uint32(19)
"""The low bits of a float32 that int4's steps omit; without the sign bit, 12 bits remain."""


class Codec(ABC):
    """Turns tokens (passages, tokens_per_passage, dim) into rows of bytes, and back to float32.

    Zeros come back as exact zeros. Passages do not affect each other. Decoded tokens may encode to
    other rows than those they came from, so a copy between stores moves rows.
    """

    name: str
    bytes_per_passage: int

    def __init__(self, tokens_per_passage: int, dim: int) -> None:
        self.tokens_per_passage = tokens_per_passage
        self.dim = dim
        self.bytes_per_passage = self._bytes_per_passage()

    @abstractmethod
    def _bytes_per_passage(self) -> int: ...

    @abstractmethod
    def encode(self, tokens: FloatArray) -> EncodedRows:
        """Encodes finite float32 tokens; raises `StoreError` if a value does not fit."""

    @abstractmethod
    def decode(self, rows: EncodedRows) -> FloatArray:
        """Decodes contiguous `rows` into a new float32 array."""


class Float32Codec(Codec):
    """Exact: four bytes a number."""

    name = "float32"

    def _bytes_per_passage(self) -> int:
        return self.tokens_per_passage * self.dim * 4

    def encode(self, tokens: FloatArray) -> EncodedRows:
        """The bytes of the numbers, little-endian."""
        return _as_rows(tokens.astype("<f4"), self.bytes_per_passage)

    def decode(self, rows: EncodedRows) -> FloatArray:
        """Returns exactly the numbers that were encoded."""
        shape = (len(rows), self.tokens_per_passage, self.dim)
        return rows.view("<f4").reshape(shape).astype(np.float32)


class Float16Codec(Codec):
    """Two bytes a number; relative error at most 2**-11 for numbers from 6.2e-5 to 65504."""

    name = "float16"

    def _bytes_per_passage(self) -> int:
        return self.tokens_per_passage * self.dim * 2

    def encode(self, tokens: FloatArray) -> EncodedRows:
        """Rounds to float16; raises `StoreError` if a number is too large."""
        with np.errstate(over="ignore"):
            halves = tokens.astype("<f2")
        if not np.isfinite(halves).all():
            largest = float(np.abs(tokens).max())
            raise StoreError(
                f"a token embedding holds {largest:g}, but float16 ends at 65504: "
                "use the codec float32 or int8"
            )
        return _as_rows(halves, self.bytes_per_passage)

    def decode(self, rows: EncodedRows) -> FloatArray:
        """The float16 numbers as float32."""
        shape = (len(rows), self.tokens_per_passage, self.dim)
        return rows.view("<f2").reshape(shape).astype(np.float32)


class Int8Codec(Codec):
    """One byte a number and one float32 scale a token, its largest magnitude / 127.

    The error of a number is at most half its token's scale. A row is all the bytes of the
    passage's numbers, then its scales, so that both are one slice.
    """

    name = "int8"

    def _bytes_per_passage(self) -> int:
        return self.tokens_per_passage * (self.dim + 4)

    def encode(self, tokens: FloatArray) -> EncodedRows:
        """Each token scaled to -127..127 and rounded."""
        count = len(tokens)
        scales, numbers = _scaled(tokens, 127)
        split = self.tokens_per_passage * self.dim
        rows = np.empty((count, self.bytes_per_passage), np.uint8)
        rows[:, :split] = _as_rows(numbers.astype(np.int8), split)
        rows[:, split:] = _as_rows(scales.astype("<f4"), self.bytes_per_passage - split)
        return rows

    def decode(self, rows: EncodedRows) -> FloatArray:
        """Numbers times their token's scale."""
        split = self.tokens_per_passage * self.dim
        numbers = rows[:, :split].view(np.int8)
        scales = rows[:, split:].view("<f4")
        shape = (len(rows), self.tokens_per_passage, self.dim)
        tokens: FloatArray = numbers.reshape(shape).astype(np.float32)
        tokens *= scales[:, :, None]
        return tokens


class Int6Codec(Codec):
    """Three quarters of a byte a number, and one float32 scale a token, its largest magnitude / 31.

    The error of a number is at most half its token's scale. A row is the numbers of the passage,
    -31 to 31 and each plus 32, in groups of four, which three bytes hold: the low six bits of each
    are one of the first three numbers, and their high two bits are the fourth, lowest bits first.
    Then come the scales. The last group is filled up with zeros.
    """

    name = "int6"

    def _bytes_per_passage(self) -> int:
        self._groups = -(-self.tokens_per_passage * self.dim // 4)
        return 3 * self._groups + 4 * self.tokens_per_passage

    def encode(self, tokens: FloatArray) -> EncodedRows:
        """Each token scaled to -31..31 and rounded."""
        count, split = len(tokens), 3 * self._groups
        scales, numbers = _scaled(tokens, 31)
        levels = np.zeros((count, 4 * self._groups), np.uint8)
        values = self.tokens_per_passage * self.dim
        levels[:, :values] = (numbers + 32).reshape(count, values)
        first, second, third, fourth = np.moveaxis(levels.reshape(count, self._groups, 4), 2, 0)
        rows = np.empty((count, self.bytes_per_passage), np.uint8)
        packed = rows[:, :split].reshape(count, self._groups, 3)
        packed[:, :, 0] = first | (fourth & 3) << 6
        packed[:, :, 1] = second | (fourth >> 2 & 3) << 6
        packed[:, :, 2] = third | (fourth >> 4) << 6
        rows[:, split:] = _as_rows(scales.astype("<f4"), self.bytes_per_passage - split)
        return rows

    def decode(self, rows: EncodedRows) -> FloatArray:
        """Numbers times their token's scale."""
        count, split = len(rows), 3 * self._groups
        packed = rows[:, :split].reshape(count, self._groups, 3)
        levels = np.empty((count, self._groups, 4), np.uint8)
        np.bitwise_and(packed, 63, out=levels[:, :, :3])
        high = packed >> 6
        levels[:, :, 3] = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4
        numbers = levels.reshape(count, 4 * self._groups)[:, : self.tokens_per_passage * self.dim]
        shape = (count, self.tokens_per_passage, self.dim)
        tokens: FloatArray = numbers.astype(np.float32).reshape(shape)
        tokens -= 32
        tokens *= rows[:, split:].view("<f4")[:, :, None]
        return tokens


class Int4Codec(Codec):
    """Half a byte a number, and two bytes a group: its step and which of 16 levels means zero.

    The levels of a group span its numbers and zero. The error of a number is at most half the
    step, and at most a 28th of that span. The size of a group divides dim: up to 256 numbers, but
    up to 16 in the first token, through which came nearly all of the error that equal groups
    brought into the default model's scores (benchmarks/RESULTS.md).

    A row is the levels, those of the first half of the numbers in the low four bits, then 16 bits
    a group: 8 of exponent and 4 of mantissa of the step, and 4 of the level that means zero.
    """

    name = "int4"

    def __init__(self, tokens_per_passage: int, dim: int) -> None:
        numbers = tokens_per_passage * dim
        self._half = (numbers + 1) // 2
        fine, coarse = _largest_divisor(dim, 16), _largest_divisor(dim, 256)
        # (first number, numbers, numbers a group)
        self._parts = ((0, dim, fine), (dim, numbers - dim, coarse))
        self._groups = sum(count // size for _, count, size in self._parts)
        super().__init__(tokens_per_passage, dim)

    def _bytes_per_passage(self) -> int:
        return self._half + 2 * self._groups

    def _grouped(self, numbers: npt.NDArray[Any]) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Yields a slice of the groups and a view (passages, groups, size) of their numbers."""
        done = 0
        for start, count, size in self._parts:
            values = numbers[:, start : start + count].reshape(len(numbers), count // size, size)
            yield slice(done, done + count // size), values
            done += count // size

    def encode(self, tokens: FloatArray) -> EncodedRows:
        """Rounds to the nearest level; raises `StoreError` beyond 2**126 (8.5e37)."""
        if np.abs(tokens).max(initial=0.0) > _LARGEST_OF_INT4:
            raise StoreError(
                f"a token embedding holds {float(np.abs(tokens).max()):g}, but int4 ends at "
                f"{_LARGEST_OF_INT4:g}: use the codec float32 or int8"
            )
        count = len(tokens)
        numbers = tokens.reshape(count, self.tokens_per_passage * self.dim)
        levels = np.zeros((count, 2 * self._half), np.uint8)
        groups = np.empty((count, self._groups), "<u2")
        for (which, values), (_, nearest) in zip(
            self._grouped(numbers), self._grouped(levels), strict=True
        ):
            lowest = np.minimum(values.min(axis=2), 0)
            steps = (np.maximum(values.max(axis=2), 0) - lowest) / np.float32(15)
            # rounded up, so that 16 levels still span the numbers
            bits = (steps.view(np.uint32) + np.uint32(2**_STEP_SHIFT - 1)) >> _STEP_SHIFT
            steps = _steps(bits)
            divisors = np.where(steps == 0, np.float32(1), steps)
            zeros = np.rint(lowest / -divisors)
            groups[:, which] = bits << 4 | zeros.astype(np.uint32)
            scaled = values / divisors[:, :, None]
            np.rint(scaled, out=scaled)
            scaled += zeros[:, :, None]
            # halves on both sides of zero round to 16 steps
            np.minimum(scaled, 15, out=scaled)
            nearest[:] = scaled
        rows = np.empty((count, self.bytes_per_passage), np.uint8)
        rows[:, : self._half] = levels[:, : self._half] | levels[:, self._half :] << 4
        rows[:, self._half :] = _as_rows(groups, 2 * self._groups)
        return rows

    def decode(self, rows: EncodedRows) -> FloatArray:
        """Levels above or below the one that means zero, times their group's step."""
        pairs, groups = rows[:, : self._half], rows[:, self._half :].view("<u2")
        levels = np.concatenate([pairs & 15, pairs >> 4], axis=1).view(np.int8)
        zeros, steps = (groups & 15).astype(np.int8), _steps(groups >> 4)
        tokens = np.empty((len(rows), self.tokens_per_passage * self.dim), np.float32)
        for (which, values), (_, numbers) in zip(
            self._grouped(levels), self._grouped(tokens), strict=True
        ):
            values -= zeros[:, which, None]
            np.multiply(values, steps[:, which, None], out=numbers)
        return tokens.reshape(len(rows), self.tokens_per_passage, self.dim)


_CODECS: dict[str, type[Codec]] = {
    codec.name: codec for codec in (Float32Codec, Float16Codec, Int8Codec, Int6Codec, Int4Codec)
}


def open_codec(name: str, *, tokens_per_passage: int, dim: int) -> Codec:
    """Returns the codec `name`; raises `SettingsError` if it is unknown or a size is below 1."""
    if name not in _CODECS:
        raise SettingsError(f"unknown codec {name!r}: choose one of {', '.join(CODEC_NAMES)}")
    if tokens_per_passage < 1 or dim < 1:
        raise SettingsError(
            f"tokens_per_passage and dim must be 1 or more, got {tokens_per_passage} and {dim}"
        )
    return _CODECS[name](tokens_per_passage, dim)


def _as_rows(numbers: npt.NDArray[np.generic], width: int) -> EncodedRows:
    return np.ascontiguousarray(numbers).reshape(-1).view(np.uint8).reshape(len(numbers), width)


def _scaled(tokens: FloatArray, largest: int) -> tuple[FloatArray, FloatArray]:
    """Returns scales (passages, tokens), and tokens divided by them and rounded to integers.

    The integers, in float32, are from `-largest` to `largest`.
    """
    scales: FloatArray = np.abs(tokens).max(axis=2, initial=0.0) / np.float32(largest)
    # `largest` times a scale that was rounded up must not pass float32's largest number
    limit = np.nextafter(np.finfo(np.float32).max / np.float32(largest), np.float32(0))
    scales = np.minimum(scales, limit, dtype=np.float32)
    # a token of zeros (or of numbers below float32's smallest scale) becomes all zeros
    divisors = np.where(scales == 0, np.float32(np.inf), scales)
    numbers: FloatArray = np.divide(tokens, divisors[:, :, None], dtype=np.float32)
    np.rint(numbers, out=numbers)
    # a scale near float32's smallest number is itself rounded, and may leave one more
    np.clip(numbers, -largest, largest, out=numbers)
    return scales, numbers


def _steps(bits: npt.NDArray[np.integer[Any]]) -> FloatArray:
    """Returns float32 numbers from their leading bits without the sign bit."""
    return (bits.astype(np.uint32) << _STEP_SHIFT).view(np.float32)


def _largest_divisor(number: int, limit: int) -> int:
    return next(size for size in range(min(number, limit), 0, -1) if number % size == 0)
