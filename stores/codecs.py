"""How token embeddings become bytes: float32, float16, or int8 with one float32 scale a token."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from dipair_index.errors import SettingsError, StoreError
from dipair_index.records import FloatArray

Rows = npt.NDArray[np.uint8]
"""(passages, bytes_per_passage)"""


_LARGEST_SCALE = np.nextafter(np.finfo(np.float32).max / np.float32(127), np.float32(0))


class Codec(ABC):
    """Turns tokens (passages, tokens_per_passage, dim) into rows of bytes, and back to float32.

    A token of zeros comes back as exact zeros. Passages do not affect each other.
    """

    name: str
    bytes_per_passage: int

    def __init__(self, tokens_per_passage: int, dim: int) -> None:
        self.tokens_per_passage = tokens_per_passage
        self.dim = dim
        self.bytes_per_passage = tokens_per_passage * self._bytes_per_token()

    @abstractmethod
    def _bytes_per_token(self) -> int: ...

    @abstractmethod
    def encode(self, tokens: FloatArray) -> Rows:
        """Finite float32 tokens as rows of bytes; StoreError where a value does not fit."""

    @abstractmethod
    def decode(self, rows: Rows) -> FloatArray:
        """A new float32 array of the tokens that contiguous `rows` hold."""


class Float32Codec(Codec):
    """Exact: four bytes a number."""

    name = "float32"

    def _bytes_per_token(self) -> int:
        return 4 * self.dim

    def encode(self, tokens: FloatArray) -> Rows:
        """The bytes of the numbers, little-endian."""
        return _as_rows(tokens.astype("<f4"), self.bytes_per_passage)

    def decode(self, rows: Rows) -> FloatArray:
        """Exactly what was encoded."""
        shape = (len(rows), self.tokens_per_passage, self.dim)
        return rows.view("<f4").reshape(shape).astype(np.float32)


class Float16Codec(Codec):
    """Two bytes a number; relative error at most 2**-11 for numbers from 6.2e-5 to 65504."""

    name = "float16"

    def _bytes_per_token(self) -> int:
        return 2 * self.dim

    def encode(self, tokens: FloatArray) -> Rows:
        """The nearest float16 numbers; StoreError where a number is too large for one."""
        with np.errstate(over="ignore"):
            halves = tokens.astype("<f2")
        if not np.isfinite(halves).all():
            largest = float(np.abs(tokens).max())
            raise StoreError(
                f"a token embedding holds {largest:g}, but float16 ends at 65504: "
                "use the codec float32 or int8"
            )
        return _as_rows(halves, self.bytes_per_passage)

    def decode(self, rows: Rows) -> FloatArray:
        """The float16 numbers as float32."""
        shape = (len(rows), self.tokens_per_passage, self.dim)
        return rows.view("<f2").reshape(shape).astype(np.float32)


class Int8Codec(Codec):
    """One byte a number and one float32 scale a token, its largest magnitude / 127.

    The error of a number is at most half its token's scale. A row is all the bytes of the
    passage's numbers, then its scales, so that both are one slice.
    """

    name = "int8"

    def _bytes_per_token(self) -> int:
        return self.dim + 4

    def encode(self, tokens: FloatArray) -> Rows:
        """Each token scaled to -127..127 and rounded."""
        count = len(tokens)
        scales = np.abs(tokens).max(axis=2, initial=0.0) / np.float32(127)
        # 127 times a scale that was rounded up must not pass float32's largest number
        scales = np.minimum(scales, _LARGEST_SCALE)
        # a token of zeros (or of numbers below float32's smallest scale) becomes all zeros
        divisors = np.where(scales == 0, np.float32(np.inf), scales)
        numbers = tokens / divisors[:, :, None]
        np.rint(numbers, out=numbers)
        # a scale near float32's smallest number is itself rounded, and may leave 128
        np.clip(numbers, -127, 127, out=numbers)
        split = self.tokens_per_passage * self.dim
        rows = np.empty((count, self.bytes_per_passage), np.uint8)
        rows[:, :split] = _as_rows(numbers.astype(np.int8), split)
        rows[:, split:] = _as_rows(scales.astype("<f4"), self.bytes_per_passage - split)
        return rows

    def decode(self, rows: Rows) -> FloatArray:
        """Numbers times their token's scale."""
        split = self.tokens_per_passage * self.dim
        numbers = rows[:, :split].view(np.int8)
        scales = rows[:, split:].view("<f4")
        shape = (len(rows), self.tokens_per_passage, self.dim)
        tokens: FloatArray = numbers.reshape(shape).astype(np.float32)
        tokens *= scales[:, :, None]
        return tokens


_CODECS: dict[str, type[Codec]] = {c.name: c for c in (Float32Codec, Float16Codec, Int8Codec)}

CODEC_NAMES = tuple(_CODECS)


def open_codec(name: str, *, tokens_per_passage: int, dim: int) -> Codec:
    """The codec called `name`; SettingsError for another name or for sizes below 1."""
    if name not in _CODECS:
        raise SettingsError(f"unknown codec {name!r}: choose one of {', '.join(CODEC_NAMES)}")
    if tokens_per_passage < 1 or dim < 1:
        raise SettingsError(
            f"tokens_per_passage and dim must be 1 or more, got {tokens_per_passage} and {dim}"
        )
    return _CODECS[name](tokens_per_passage, dim)


def _as_rows(numbers: npt.NDArray[np.generic], width: int) -> Rows:
    return np.ascontiguousarray(numbers).reshape(-1).view(np.uint8).reshape(len(numbers), width)
