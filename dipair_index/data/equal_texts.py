"""Finds texts with the same words under different ids, by digests, to save memory."""

from __future__ import annotations

import hashlib
from array import array
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def plain_text(text: str) -> str:
    """Returns the words of a text in lower case, separated by single spaces."""
    return " ".join(text.casefold().split())


def text_key(text: str) -> int:
    """Returns a 64-bit digest of `plain_text`, equal for texts with the same words.

    In a collection of ten million texts, two different ones share a key with a probability of
    about 1 in 400,000.
    """
    digest = hashlib.blake2b(plain_text(text).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def first_rows(keys: array[int] | Rows) -> Rows:
    """Returns for each key the row of the first equal key, (rows,)."""
    _, first, inverse = np.unique(
        np.asarray(keys, np.int64), return_index=True, return_inverse=True
    )
    return np.asarray(first[inverse], np.int64)


def first_of_each(rows: Rows) -> npt.NDArray[np.bool_]:
    """Returns a mask of the first occurrence of each value in its line, (lines, values)."""
    order = np.argsort(rows, axis=1, kind="stable")
    in_order = np.take_along_axis(rows, order, 1)
    again = np.zeros(rows.shape, bool)
    again[:, 1:] = in_order[:, 1:] == in_order[:, :-1]
    first = np.empty(rows.shape, bool)
    np.put_along_axis(first, order, ~again, 1)
    return first


class EqualTexts(NamedTuple):
    """For each query and passage the row of the first one with the same words."""

    queries: Rows  # (queries,)
    passages: Rows  # (passages,)
