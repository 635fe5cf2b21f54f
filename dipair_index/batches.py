"""Batches of texts of like length, so that little is spent on padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def length_sorted_batches(lengths: Sequence[int], batch_size: int) -> Iterator[Rows]:
    """Yields the positions of `lengths` in batches, longest first.

    Longest first, so that a batch too large for the memory fails at once.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


class TokenisedBatches:
    """Iterates over (positions in `texts`, padded torch batch of them), longest texts first.

    `truncated` counts the texts that were cut at `max_length` tokens.
    """

    def __init__(
        self, tokenizer: Any, texts: Sequence[str], *, max_length: int, batch_size: int = 64
    ) -> None:
        encodings = (
            tokenizer(list(texts), truncation=True, max_length=max_length).encodings
            if texts
            else []
        )
        self.truncated = sum(bool(encoding.overflowing) for encoding in encodings)
        self._ids = [encoding.ids for encoding in encodings]
        self._tokenizer = tokenizer
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[tuple[Rows, Any]]:
        for rows in length_sorted_batches([len(ids) for ids in self._ids], self._batch_size):
            yield (
                rows,
                self._tokenizer.pad(
                    {"input_ids": [self._ids[row] for row in rows]}, return_tensors="pt"
                ),
            )
