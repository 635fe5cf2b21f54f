"""Batches of texts of like length, so that little is spent on padding."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from dipair_index.errors import FormatError

Rows = npt.NDArray[np.int64]
Encode: TypeAlias = Callable[[list[str]], Sequence[Any]]
"""Gives an encoding of the package `tokenizers` a text, cut at some number of tokens."""

CHARACTERS_A_TOKEN = 16
"""So many characters a token, which hold enough tokens in nearly all texts (English: 5 a token)."""
UNDIVIDED = 1 << 14
"""Characters of a run that hold more tokens than are read, or are one unknown word."""
RUNS = re.compile(r"\S+|\s+")


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
    """Returns the token ids of texts by a fast tokenizer of transformers.

    Raises `FormatError` for a text that UTF-8 cannot encode.
    """
    encode = truncating(tokenizer, max_length)
    return Tokenised.of(side, encode(beginnings(encode, texts, max_length)))


def truncating(tokenizer: Any, max_length: int) -> Encode:
    """Returns what encodes texts by a fast tokenizer of transformers, each by itself."""

    def encode(texts: list[str]) -> Sequence[Any]:
        if not texts:  # it refuses an empty list
            return []
        found: Sequence[Any] = tokenizer(texts, truncation=True, max_length=max_length).encodings
        return found

    return encode


def beginnings(encode: Encode, texts: Sequence[str], max_length: int) -> list[str]:
    """Returns texts that `encode` cuts to the same tokens, without most of what it would drop.

    A tokenizer reads a text to its end before it is cut: 200 bytes of memory a character. A
    beginning of it stands for all where two words, as the tokenizer divides it, follow the last
    token that is read, since what comes after a word does not change its tokens. Of a run of
    characters without a space, `UNDIVIDED` stand for all. Raises `FormatError` for a text that
    UTF-8 cannot encode.
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
    """Whether more characters would leave the tokens of an encoding as they are."""
    if not encoding.overflowing:
        return False
    read, dropped = (
        [word for word in each.word_ids if word is not None]  # a special token is in no word
        for each in (encoding, encoding.overflowing[-1])
    )
    if not read or not dropped or max(read) > max(dropped):
        return False  # what is dropped comes before what is read
    return max(dropped) > max(read) + 1 or undivided


def _encodable(text: str) -> str:
    """Returns the text; `FormatError` where it holds half of a surrogate pair."""
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
    """Texts a batch: on a processor, more leave its cache (128 tokens: 27 ms a text by 16, 32 by
    64); a GPU wants many.
    """
    return 16 if device == "cpu" else 256


def padded_batches(tokenizer: Any, texts: Tokenised, batch_size: int) -> Iterator[tuple[Rows, Any]]:
    """Yields (positions in `texts`, padded torch batch of them), longest texts first."""
    for rows in length_sorted_batches([len(ids) for ids in texts.ids], batch_size):
        yield rows, padded(tokenizer, [texts.ids[row] for row in rows])


def padded(tokenizer: Any, ids: list[list[int]]) -> Any:
    """Returns torch's `input_ids` and `attention_mask`, both (texts, tokens), padded at the end."""
    # whatever the tokenizer prefers: a text begins at the first position
    return tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt")


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
