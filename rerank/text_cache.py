"""`TextCache`: a bounded cache of encoded texts, so that each is encoded once per process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from dipair_index.encoders.base import TextEncoder
from dipair_index.locks import ForkSafeLock
from dipair_index.rerank.arguments import checked_count
from dipair_index.stores.codecs import Codec, EncodedRows

DEFAULT_CACHE_BYTES = 256 * 2**20
"""Enough for about 110,000 texts with the default model and int8."""
_ENTRY_BYTES = 400
"""Python's own memory for an entry."""


class TextKey(NamedTuple):
    """The inputs of an encoded text: the model, the codec, and a digest of the text."""

    fingerprint: str
    codec: str
    shape: tuple[int, int]  # tokens of a passage, numbers of a token
    digest: bytes


class TextCache:
    """A cache of encoded texts that drops the least recently used ones. Threads may share it.

    Parameters
    ----------
    max_bytes : int
        The limit on the memory of the cached texts. A single call may need more while it runs.

    Raises
    ------
    SettingsError
        If `max_bytes` is no whole number, or negative.

    Examples
    --------
    >>> from dipair_index import Reranker
    >>> cache = TextCache(max_bytes=2**20)
    >>> reranker = Reranker(cache=cache)
    >>> best, *others = reranker.rank("why does dough rise", ["Yeast makes gas.", "Bees dance."])
    >>> len(cache)
    2
    """

    def __init__(self, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.max_bytes = checked_count("max_bytes", max_bytes, least=0)
        self._rows: OrderedDict[TextKey, EncodedRows] = OrderedDict()
        self._bytes = 0
        self._lock = ForkSafeLock()
        self._encoding = ForkSafeLock()

    def rows(self, texts: Sequence[str], encoder: TextEncoder, codec: Codec) -> EncodedRows:
        """Returns texts encoded as passages, uint8 (len(texts), codec.bytes_per_passage).

        Equal texts are encoded once, and cached texts not at all.
        """
        keys = _keys(texts, encoder, codec)
        found = self._held(keys)
        if len(found) < len(set(keys)):
            # one thread at a time, so that a text that two threads need is encoded once
            with self._encoding:
                found |= self._held([key for key in keys if key not in found])
                missing = {
                    key: text for key, text in zip(keys, texts, strict=True) if key not in found
                }
                if missing:
                    tokens = encoder.encode_passages(list(missing.values())).tokens
                    encoded = dict(zip(missing, codec.encode(tokens), strict=True))
                    self._put(encoded)
                    found |= encoded
        rows = np.empty((len(keys), codec.bytes_per_passage), np.uint8)
        for index, key in enumerate(keys):
            rows[index] = found[key]
        return rows

    def held(
        self, texts: Sequence[str], encoder: TextEncoder, codec: Codec
    ) -> list[EncodedRows | None]:
        """Returns for each text its row as `rows` does, or None if it is not cached."""
        keys = _keys(texts, encoder, codec)
        found = self._held(keys)
        return [found.get(key) for key in keys]

    def clear(self) -> None:
        """Removes all texts."""
        with self._lock:
            self._rows.clear()
            self._bytes = 0

    @property
    def stored_bytes(self) -> int:
        """The memory of the cached texts, in bytes."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._rows)

    def _held(self, keys: Sequence[TextKey]) -> dict[TextKey, EncodedRows]:
        found = {}
        with self._lock:
            for key in keys:
                if (row := self._rows.get(key)) is not None:
                    self._rows.move_to_end(key)
                    found[key] = row
        return found

    def _put(self, encoded: Mapping[TextKey, EncodedRows]) -> None:
        with self._lock:
            for key, row in encoded.items():
                if key not in self._rows:
                    self._bytes += row.nbytes + _ENTRY_BYTES
                # a copy, since a view would keep the whole array in memory
                self._rows[key] = row.copy()
            # a thread that a fork ended here may have counted what it did not keep
            while self._rows and self._bytes > self.max_bytes:
                _, row = self._rows.popitem(last=False)
                self._bytes -= row.nbytes + _ENTRY_BYTES


def _keys(texts: Sequence[str], encoder: TextEncoder, codec: Codec) -> list[TextKey]:
    shape = codec.tokens_per_passage, codec.dim
    return [TextKey(encoder.fingerprint, codec.name, shape, text_digest(text)) for text in texts]


SHARED_CACHE = TextCache()
"""The default cache of all indexes and rerankers of this process."""


def text_digest(text: str) -> bytes:
    """Returns a digest of a text, 16 bytes."""
    return blake2b(text.encode(), digest_size=16).digest()
