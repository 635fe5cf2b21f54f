"""One short name for many texts, so that what was computed from them can be known again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


class TextsDigest:
    """Grows with every id and text it is shown; the same ones in the same order give the same.

    An index and a dataset take over each other's vectors when the digests of their passages
    (ids and what the encoder reads, in the order of the collection) are equal.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.count = 0

    def update(self, ids: Iterable[str], texts: Iterable[str]) -> None:
        """Adds texts and their ids."""
        for text_id, text in zip(ids, texts, strict=True):
            # lengths first, so that no two lists run together into the same bytes
            data = (text_id.encode(), text.encode())
            self._hash.update(b"%d %d " % (len(data[0]), len(data[1])))
            self._hash.update(data[0] + data[1])
            self.count += 1

    def hexdigest(self) -> str:
        """16 hex digits for what was added so far."""
        return self._hash.hexdigest()[:16]
