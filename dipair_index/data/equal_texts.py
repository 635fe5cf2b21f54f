"""Texts that read the same, whatever their ids: found by digests, so that memory stays flat."""

from __future__ import annotations

import hashlib
from array import array
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def plain_text(text: str) -> str:
    """Returns the words of a text in lower case: texts with the same ones read the same."""
    return " ".join(text.casefold().split())


def text_key(text: str) -> int:
    """Returns 64 bits of the digest of a text's words, equal for texts that read the same.

    Two of ten million other texts share a key in about one collection of 400,000.
    """
    digest = hashlib.blake2b(plain_text(text).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def first_rows(keys: array[int] | Rows) -> Rows:
    """Returns, for each key, the row of the first that equals it, (rows,)."""
    _, first, inverse = np.unique(
        np.asarray(keys, np.int64), return_index=True, return_inverse=True
    )
    return np.asarray(first[inverse], np.int64)


def first_of_each(rows: Rows) -> npt.NDArray[np.bool_]:
    """Returns where a value stands for the first time in its line; `rows` is (lines, values)."""
    order = np.argsort(rows, axis=1, kind="stable")
    in_order = np.take_along_axis(rows, order, 1)
    again = np.zeros(rows.shape, bool)
    again[:, 1:] = in_order[:, 1:] == in_order[:, :-1]
    first = np.empty(rows.shape, bool)
    np.put_along_axis(first, order, ~again, 1)
    return first


class EqualTexts(NamedTuple):
    """For each query and passage the row of the first that reads the same."""

    queries: Rows  # (queries,)
    passages: Rows  # (passages,)
