"""The snapshot that an open index searches, kept open until its last search has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from dipair_index.encoders.sentence_embedders import SentenceEmbedder
from dipair_index.errors import StoreError
from dipair_index.locks import ForkSafeLock
from dipair_index.stores.snapshot import Snapshot


class Opened:
    """A snapshot with the embedder of its vectors, and the number of its users."""

    def __init__(self, snapshot: Snapshot, embedder: SentenceEmbedder) -> None:
        self.snapshot = snapshot
        self.embedder = embedder
        self.users = 1  # the index itself


class Lender(Protocol):
    """Lends the snapshot that is searched."""

    def lent(self) -> AbstractContextManager[Opened]:
        """Lends a snapshot for a block."""
        ...


class Pinned:
    """Lends one snapshot, which somebody else keeps open meanwhile."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    def lent(self) -> AbstractContextManager[Opened]:
        """Lends the snapshot for a block."""
        return nullcontext(self._opened)


class Current:
    """Lends the current snapshot to searches, in any thread, while another thread may replace it.

    A search uses the same snapshot to its end, so its results are from one state of the index.
    """

    def __init__(self, name: str, opened: Opened) -> None:
        self._name = name
        self._opened: Opened | None = opened
        self.latest = opened
        """The current snapshot, or the last one if the index was closed."""
        self._lock = ForkSafeLock()

    @contextmanager
    def lent(self) -> Iterator[Opened]:
        """Lends the current snapshot for a block; raises `StoreError` if the index was closed."""
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
        """Replaces the current snapshot, or with None closes the index.

        The old snapshot is closed when its last search has ended.
        """
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
