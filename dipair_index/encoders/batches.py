"""Batches of texts of like length, so that little is spent on padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

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


class Tokenised(NamedTuple):
    """The token ids of a side's texts, cut at the length that its encoder reads."""

    side: str
    ids: list[list[int]]
    truncated: int  # texts that were cut

    @classmethod
    def of(cls, side: str, encodings: Sequence[Any]) -> Tokenised:
        """From what the package `tokenizers` gives."""
        cut = sum(bool(encoding.overflowing) for encoding in encodings)
        return cls(side, [encoding.ids for encoding in encodings], cut)


def tokenise(
    tokenizer: Any, texts: Sequence[str], *, max_length: int, side: str = "passage"
) -> Tokenised:
    """Returns the token ids of texts by a fast tokenizer of transformers."""
    # it refuses an empty list
    encodings = (
        tokenizer(list(texts), truncation=True, max_length=max_length).encodings if texts else []
    )
    return Tokenised.of(side, encodings)


def best_batch_size(device: str) -> int:
    """Texts a batch: on a processor, more leave its cache (128 tokens: 27 ms a text by 16, 32 by
    64); a GPU wants many.
    """
    return 16 if device == "cpu" else 256


def padded_batches(tokenizer: Any, texts: Tokenised, batch_size: int) -> Iterator[tuple[Rows, Any]]:
    """Yields (positions in `texts`, padded torch batch of them), longest texts first."""
    for rows in length_sorted_batches([len(ids) for ids in texts.ids], batch_size):
        batch = {"input_ids": [texts.ids[row] for row in rows]}
        yield rows, tokenizer.pad(batch, return_tensors="pt")


class TokenisedBatches:
    """Iterates over (positions in `texts`, padded torch batch of them), longest texts first.

    `truncated` counts the texts that were cut at `max_length` tokens.
    """

    def __init__(
        self, tokenizer: Any, texts: Sequence[str], *, max_length: int, batch_size: int = 64
    ) -> None:
        self._texts = tokenise(tokenizer, texts, max_length=max_length)
        self.truncated = self._texts.truncated
        self._tokenizer = tokenizer
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[tuple[Rows, Any]]:
        return padded_batches(self._tokenizer, self._texts, self._batch_size)
