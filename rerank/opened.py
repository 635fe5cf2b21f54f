"""What an open index answers from, kept open until its last search has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dipair_index.encoders.sentence_embedders import SentenceEmbedder
from dipair_index.errors import StoreError
from dipair_index.locks import ForkSafeLock
from dipair_index.stores.snapshot import Snapshot


class Opened:
    """A snapshot, with the embedder whose vectors it holds."""

    def __init__(self, snapshot: Snapshot, embedder: SentenceEmbedder) -> None:
        self.snapshot = snapshot
        self.embedder = embedder
        self.users = 1  # the index itself


class Current:
    """Lends what is open now to searches in any thread, while another thread replaces it.

    A search keeps what it was lent to its end, so its results are of one state of the index.
    """

    def __init__(self, name: str, opened: Opened) -> None:
        self._name = name
        self._opened: Opened | None = opened
        self.latest = opened
        """What is lent now, or was lent last. Its snapshot may be closed."""
        self._lock = ForkSafeLock()

    @contextmanager
    def lent(self) -> Iterator[Opened]:
        """Lends what is open now; raises `StoreError` if the index was closed."""
        with self._lock:
            opened = self._opened
            if opened is None:
                raise StoreError(f"the index at {self._name} is closed: open it again")
            opened.users += 1
        try:
            yield opened
        finally:
            self._return(opened)

    def replace(self, opened: Opened | None) -> None:
        """Lends `opened`, or nothing, from now on; closes what was lent once nobody uses it."""
        with self._lock:
            before, self._opened = self._opened, opened
            self.latest = opened or self.latest
        if before is not None:
            self._return(before)

    def _return(self, opened: Opened) -> None:
        with self._lock:
            opened.users -= 1
            unused = not opened.users
        if unused:
            opened.snapshot.close()
