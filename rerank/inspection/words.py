"""The words that tokens stand for: those of the text they come from, and those of a vocabulary.

A kept token may be the mean of many output tokens, and every output token has read the whole text.
So a word's influence on a token is what leaving the word out of the text changes: the text is
encoded again without it, and the token is compared with the nearest one that is left.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.models.config import Side
from dipair_index.records import FloatArray

MOST_WORDS = 200
"""The words of a text that are left out one by one, its first ones."""
LEAST_SHARE = 0.5
"""A token stands for the words with at least this share of its largest influence..."""
LEAST_INFLUENCE = 0.02
"""...and with a change of its cosine of at least this much."""

_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")
_SUBWORD_MARKS = "▁Ġ"
"""What SentencePiece and byte-level BPE write before a token that begins a word."""


class Word(NamedTuple):
    """A word of a text at [start, end) in code points, or of a vocabulary, and its weight."""

    word: str
    weight: float
    start: int | None = None
    end: int | None = None


def present(tokens: FloatArray) -> FloatArray:
    """Returns the tokens (tokens, dim) that are there at unit length; zeros stand for none."""
    found = tokens[tokens.any(-1)]
    unit: FloatArray = found / np.linalg.norm(found, axis=-1, keepdims=True)
    return unit


def words_behind(encoder: DualEncoder, side: Side, text: str) -> list[list[Word]]:
    """Returns the words of a text that each of its kept tokens stands for, heaviest first.

    The weight is one minus the cosine of the token with the nearest token of the text without the
    word.
    """
    words = list(_WORD.finditer(text))[:MOST_WORDS]
    shorter = [f"{text[: word.start()]}{text[word.end() :]}" for word in words]
    tokens, *others = map(present, encoder.encode(side, [text, *shorter]).tokens)
    changed = np.zeros((len(tokens), len(words)))
    for place, left in enumerate(others):
        if len(left):
            changed[:, place] = 1 - (tokens @ left.T).max(1)
    behind = []
    for row in changed:
        least = max(LEAST_INFLUENCE, LEAST_SHARE * row.max(initial=0))
        heaviest = [place for place in np.argsort(-row, kind="stable") if row[place] >= least]
        behind.append([
            Word(words[place][0], float(row[place]), words[place].start(), words[place].end())
            for place in heaviest
        ])  # fmt: skip
    return behind


class Vocabulary:
    """The first whole words of an encoder's vocabulary, each encoded as a text of its own.

    WordPiece and BPE list frequent words first. Parameters are the encoder, the side as which the
    words are read, and how many of them there are.
    """

    def __init__(self, encoder: DualEncoder, side: Side, size: int) -> None:
        self.words = _whole_words(encoder.tokenizer)[:size]
        kept = encoder.encode(side, self.words).tokens  # (words, kept, dim)
        # a word's own token is at the place that differs most between words; marker tokens, which
        # stand beside it, hardly do
        varying = np.square(kept - kept.mean(0)).sum(-1).mean(0) if self.words else np.zeros(1)
        own = kept[:, int(varying.argmax())]
        self._vectors = own / np.linalg.norm(own, axis=-1, keepdims=True).clip(1e-12)

    def nearest(self, tokens: FloatArray, count: int) -> list[list[Word]]:
        """Returns the `count` words with the largest cosine with each token, (tokens, dim)."""
        cosines = present(tokens) @ self._vectors.T
        return [
            [Word(self.words[place], float(row[place])) for place in np.argsort(-row)[:count]]
            for row in cosines
        ]


def _whole_words(tokenizer: Any) -> list[str]:
    """Returns the words of a tokenizer's vocabulary, in the order of their ids."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    tokens: Sequence[str] = sorted(vocabulary, key=vocabulary.__getitem__)
    if any(token.startswith(tuple(_SUBWORD_MARKS)) for token in tokens):
        tokens = [token[1:] for token in tokens if token.startswith(tuple(_SUBWORD_MARKS))]
    return [token for token in tokens if len(token) > 1 and token.isalpha()]
