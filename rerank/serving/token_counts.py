"""Counts the tokens of texts, for the usage that an answer reports."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from dipair_index.encoders.base import TextEncoder
from dipair_index.rerank.text_cache import text_digest

_MOST = 2**17
"""Texts whose counts are remembered: about 20 MB."""
_LONG = "a " * 10_000
"""A text longer than any model reads."""


class TokenCount(NamedTuple):
    """The tokens of a text that the model reads, and whether the text has more."""

    tokens: int
    truncated: bool


class TokenCounts:
    """The counts of passages' tokens, remembered for the texts that were asked for last.

    For one thread.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._known: OrderedDict[bytes, TokenCount] = OrderedDict()
        self.passage_length = len(encoder.tokenised("passage", [_LONG]).ids[0])
        """The tokens of a passage that the model reads at most."""

    def of_passages(self, texts: Sequence[str]) -> list[TokenCount]:
        """Returns the count of each text as a passage."""
        keys = [text_digest(text) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        counted = dict(zip(new, self._count(list(new.values())), strict=True))
        found = [counted.get(key) or self._known[key] for key in keys]
        for key, count in zip(keys, found, strict=True):
            self._known[key] = count
            self._known.move_to_end(key)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        return found

    def of_query(self, query: str) -> int:
        """Returns the tokens of a query that the model reads."""
        return len(self._encoder.tokenised("query", [query]).ids[0])

    def _count(self, texts: list[str]) -> list[TokenCount]:
        if not texts:
            return []
        tokenised = self._encoder.tokenised("passage", texts)
        lengths = [len(ids) for ids in tokenised.ids]
        full = max(lengths)
        suspects = [row for row, length in enumerate(lengths) if length == full]
        cut: set[int] = set()
        if tokenised.truncated == len(suspects):
            cut = set(suspects)
        elif tokenised.truncated:  # some end exactly at the maximum
            cut = {
                row
                for row in suspects
                if self._encoder.tokenised("passage", [texts[row]]).truncated
            }
        return [TokenCount(length, row in cut) for row, length in enumerate(lengths)]
