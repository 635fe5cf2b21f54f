"""Tokenisation of texts, and batches of texts of similar length, to save padding."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from dipair_index.errors import FormatError

Rows = npt.NDArray[np.int64]
Encode: TypeAlias = Callable[[list[str]], Sequence[Any]]
"""A function that returns an encoding of the package `tokenizers` per text, truncated."""

CHARACTERS_A_TOKEN = 16
"""Characters to read per token; nearly all texts have fewer per token (English: about 5)."""
UNDIVIDED = 1 << 14
"""Characters of a run without a space that exceed the maximum length or are one unknown word."""
RUNS = re.compile(r"\S+|\s+")


def length_sorted_batches(lengths: Sequence[int], batch_size: int) -> Iterator[Rows]:
    """Yields the positions of `lengths` in batches, longest first.

    A batch that is too large for the memory thus fails at once.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


class Tokenised(NamedTuple):
    """The token ids of a side's texts, truncated to the maximum length of the side."""

    side: str
    ids: list[list[int]]
    truncated: int  # how many texts were truncated

    @classmethod
    def of(cls, side: str, encodings: Sequence[Any]) -> Tokenised:
        """Makes it of encodings of the package `tokenizers`."""
        cut = sum(bool(encoding.overflowing) for encoding in encodings)
        return cls(side, [encoding.ids for encoding in encodings], cut)


def tokenise(
    tokenizer: Any, texts: Sequence[str], *, max_length: int, side: str = "passage"
) -> Tokenised:
    """Returns the token ids of texts by a fast tokenizer of transformers.

    `max_length` is in tokens. Raises `FormatError` if UTF-8 cannot encode a text.
    """
    encode = truncating(tokenizer, max_length)
    return Tokenised.of(side, encode(beginnings(encode, texts, max_length)))


def truncating(tokenizer: Any, max_length: int) -> Encode:
    """Returns a function that encodes single texts by a fast tokenizer of transformers."""

    def encode(texts: list[str]) -> Sequence[Any]:
        if not texts:  # the tokenizer refuses an empty list
            return []
        found: Sequence[Any] = tokenizer(texts, truncation=True, max_length=max_length).encodings
        return found

    return encode


def beginnings(encode: Encode, texts: Sequence[str], max_length: int) -> list[str]:
    """Returns the beginnings of texts, which `encode` truncates to the same tokens as the texts.

    A tokenizer reads a whole text before it truncates it, with 200 bytes of memory per character.
    The tokens of a word do not depend on the text after it. So a beginning is long enough if two
    words, as the tokenizer divides the text, follow the last token within the maximum length. Of a
    run of characters without a space, `UNDIVIDED` are enough. Raises `FormatError` if UTF-8 cannot
    encode a text.
    """
    found = [_encodable(text) for text in texts]
    size = CHARACTERS_A_TOKEN * max_length
    undivided = max(UNDIVIDED, size)
    waiting = {row: text for row, text in enumerate(texts) if len(text) > size}
    while waiting:
        encodings = encode([text[:size] for text in waiting.values()])
        for (row, text), encoding in zip(list(waiting.items()), encodings, strict=True):
            if len(text) <= size or _is_settled(encoding, size >= undivided):
                found[row] = text[:size]
                del waiting[row]
        waiting = {
            row: RUNS.sub(lambda run: run[0][:undivided], text) for row, text in waiting.items()
        }
        size *= 4
    return found


def _is_settled(encoding: Any, undivided: bool) -> bool:
    """Returns whether the tokens of an encoding would be the same with more characters."""
    if not encoding.overflowing:
        return False
    read, dropped = (
        [word for word in each.word_ids if word is not None]  # a special token is in no word
        for each in (encoding, encoding.overflowing[-1])
    )
    if not read or not dropped or max(read) > max(dropped):
        return False  # the tokenizer truncates the beginning
    return max(dropped) > max(read) + 1 or undivided


def _encodable(text: str) -> str:
    """Returns the text; raises `FormatError` if it contains half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FormatError(
            f"a text has half of a surrogate pair as its character {error.start + 1}, which no "
            f"tokenizer reads ({text[: error.start][-20:]!r} comes before it): decode the text "
            "again from its bytes"
        ) from error
    return text


def best_batch_size(device: str) -> int:
    """Returns how many texts a batch should have on a device.

    Larger batches do not fit a processor's cache (texts of 128 tokens: 27 ms each in batches of 16,
    32 ms in batches of 64); a GPU is faster with large ones.
    """
    return 16 if device == "cpu" else 256


def padded_batches(tokenizer: Any, texts: Tokenised, batch_size: int) -> Iterator[tuple[Rows, Any]]:
    """Yields positions in `texts` and the padded torch batch of these texts, longest first."""
    for rows in length_sorted_batches([len(ids) for ids in texts.ids], batch_size):
        yield rows, padded(tokenizer, [texts.ids[row] for row in rows])


def padded(tokenizer: Any, ids: list[list[int]]) -> Any:
    """Returns torch's `input_ids` and `attention_mask`, both (texts, tokens), padded at the end."""
    # at the end whatever the tokenizer prefers, since a text starts at the first position
    return tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt")


class TokenisedBatches:
    """Iterates over positions in `texts` and padded torch batches of these texts, longest first.

    `truncated` counts the texts that were truncated to `max_length` tokens.
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
