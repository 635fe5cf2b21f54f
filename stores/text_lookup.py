"""Finds the ids of passages by their full texts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dipair_index.errors import StoreError
from dipair_index.locks import ForkSafeLock
from dipair_index.stores.passages import PassageStore

_READ_AT_ONCE = 2048

Digests = npt.NDArray[np.uint64]
"""(2, passages): digests of full texts, ascending, and the positions of their passages."""


class TextLookup:
    """Finds the passages of one part by their full texts. Threads may share it.

    A digest of 64 bits finds candidates, whose texts are then compared. The digests are in `file`,
    16 bytes per passage. Older indexes do not have this file: then the first call reads all texts
    of the part (a million in about ten seconds), and keeps their digests in memory.
    """

    def __init__(self, file: Path, passages: PassageStore, ids: Sequence[str]) -> None:
        self._file = file
        self._passages = passages
        self._ids = ids
        self._lock = ForkSafeLock()
        self._digests: Digests | None = None

    def find(self, texts: Sequence[str], deleted: Collection[str]) -> list[str | None]:
        """Returns for each text the id of a passage with this text not in `deleted`, or None.

        Raises `StoreError` if the file of digests is damaged.
        """
        digests, positions = self._load()
        wanted = np.array([_digest(text) for text in texts], np.uint64)
        starts = np.searchsorted(digests, wanted, "left").tolist()
        ends = np.searchsorted(digests, wanted, "right").tolist()
        found: list[str | None] = []
        for text, start, end in zip(texts, starts, ends, strict=True):
            ids = (self._ids[position] for position in positions[start:end].tolist())
            live = (each for each in ids if each not in deleted)
            found.append(next((each for each in live if self._is_text_of(each, text)), None))
        return found

    def _is_text_of(self, passage_id: str, text: str) -> bool:
        return self._passages.get([passage_id])[0].full_text == text

    def _load(self) -> Digests:
        with self._lock:
            if self._digests is None:
                try:
                    self._digests = np.load(self._file, mmap_mode="r")
                    if self._digests.shape != (2, len(self._ids)):
                        raise ValueError(f"its shape is {self._digests.shape}")
                    if self._digests[1].max(initial=0) >= len(self._ids):
                        raise ValueError("it names passages that are not there")
                except FileNotFoundError:
                    self._digests = digests_of(self._passages, self._ids)
                except (OSError, EOFError, ValueError) as error:
                    raise StoreError(
                        f"{self._file} is damaged ({error}): restore it from a copy, or build the "
                        "index again with --overwrite"
                    ) from error
            return self._digests


def digests_of(passages: PassageStore, ids: Sequence[str]) -> Digests:
    """Returns the sorted digests of the full texts of the passages `ids`, and their positions."""
    digests = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), _READ_AT_ONCE):
        texts = [each.full_text for each in passages.get(ids[start : start + _READ_AT_ONCE])]
        digests[start : start + len(texts)] = [_digest(text) for text in texts]
    order = np.argsort(digests, kind="stable")
    return np.stack([digests[order], order.astype(np.uint64)])


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
