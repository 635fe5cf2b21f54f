"""Splits texts that are longer than a model reads into overlapping windows, at word boundaries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dipair_index.encoders.batches import Encode, Tokenised

OVERLAP = 32
"""The tokens that two windows share, if that is at most a quarter of what a window holds."""


def windows(
    texts: Sequence[str],
    tokenised: Callable[[Sequence[str]], Tokenised],
    encode: Encode,
    *,
    length: int,
    overlap: int = OVERLAP,
) -> list[list[str]]:
    """Returns the windows of each text, which is its only one if the model reads it whole.

    `tokenised` returns token ids as the model reads them, of at most `length` tokens; `encode`
    encodes texts neither truncated nor with special tokens. A window is a part of the text, and
    starts and ends between words unless a word is longer than a window.
    """
    found = [[text] for text in texts]
    long = [row for row, ids in enumerate(tokenised(texts).ids) if len(ids) >= length]
    room = length - len(tokenised([""]).ids[0])
    for row in long:
        if tokenised([texts[row]]).truncated:
            (encoding,) = encode([texts[row]])
            found[row] = _fitting(texts[row], encoding, tokenised, room, overlap)
    return found


def _fitting(
    text: str,
    encoding: Any,
    tokenised: Callable[[Sequence[str]], Tokenised],
    room: int,
    overlap: int,
) -> list[str]:
    """Returns windows of at most `room` tokens, of fewer if one of them is truncated otherwise.

    A window may have more tokens by itself than in its text, as that of a byte-level encoding that
    begins without its space.
    """
    while True:
        spans = _spans(encoding.word_ids, room, min(overlap, room // 4))
        offsets = encoding.offsets
        found = [text[offsets[start][0] : offsets[end - 1][1]] for start, end in spans]
        if room <= 1 or not tokenised(found).truncated:
            return found
        room -= 1


def _spans(words: Sequence[int | None], room: int, overlap: int) -> list[tuple[int, int]]:
    """Returns the first token of each window, and the one after its last, from tokens' words."""

    def between_words(place: int) -> bool:
        return words[place] != words[place - 1]

    spans, start = [], 0
    while True:
        end = min(start + room, len(words))
        if end < len(words):
            starts = (place for place in range(end, start, -1) if between_words(place))
            end = next(starts, end)
        spans.append((start, end))
        if end == len(words):
            return spans
        shared = range(max(end - overlap, start + 1), end)
        start = next((place for place in shared if between_words(place)), end)
