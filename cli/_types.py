"""The kinds of values that options take, with bounds that hold for all of them."""

from __future__ import annotations

import math
import re
from typing import Any

import click

LARGEST = 2**31 - 1
"""The largest number of 32 bits, with which FAISS, torch and numpy count."""
_SIZE = re.compile(r"([0-9]+) ?(|B|KiB|MiB|GiB)", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}


class Whole(click.IntRange):
    """A whole number from `min` on that libraries can hold."""

    def __init__(self, min: int, largest: int = LARGEST) -> None:
        super().__init__(min=min)
        self._largest = largest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Refuses numbers outside the range."""
        number: int = super().convert(value, param, ctx)
        if number > self._largest:
            self.fail(f"{value} is too large: the most is {self._largest:,}", param, ctx)
        return number


class Finite(click.types.FloatParamType):
    """A finite number: comparisons let NaN through, and `inf` is no number to compute with."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Refuses numbers that are not finite, or outside a range."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Number(Finite, click.FloatRange):
    """A finite number in a range."""


class Utf8Text(click.ParamType):  # type: ignore[type-arg]
    """A text, whichever the locale's encoding is; file names are not texts."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Decodes the bytes that Python has kept as surrogates."""
        try:
            return str(value).encode("utf-8", "surrogateescape").decode("utf-8")
        except UnicodeError:
            self.fail(f"{value!r} is not UTF-8: convert it to UTF-8", param, ctx)


class Size(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes, with a unit or without: 512KiB, 8MiB, 8388608."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Multiplies the number by its unit."""
        found = _SIZE.fullmatch(str(value).strip())
        size = int(found[1]) * _UNITS[(found[2] or "").lower()] if found else 0
        if not 0 < size <= LARGEST:
            self.fail(f"{value!r} is not a size such as 512KiB or 8MiB, below 2GiB", param, ctx)
        return size


COUNT = Whole(1)
NOT_NEGATIVE_COUNT = Whole(0)
STEPS = Whole(-1)  # of which 0 and -1 set no limit
NUMBER = Finite()
POSITIVE = Number(min=0, min_open=True)
NOT_NEGATIVE = Number(min=0)
SHARE = Number(min=0, max=1, max_open=True)
TEXT = Utf8Text()
SIZE = Size()
