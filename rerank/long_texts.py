"""Texts that are longer than the model reads: cut, or split into windows of which the best counts.

An index that was built with `long="split"` stores the windows of its passages; texts that a caller
gives are split in the same way, so that they have the same scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from dipair_index.encoders.base import TextEncoder
from dipair_index.errors import SettingsError
from dipair_index.records import FloatArray
from dipair_index.stores.id_table import Integers
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.names import SPLIT


@runtime_checkable
class WindowEncoder(Protocol):
    """A `TextEncoder` that splits texts."""

    def windows(self, side: str, texts: Sequence[str], overlap: int) -> list[list[str]]:
        """Returns the windows of each text, as `dipair_index.encoders.windows` does."""
        ...


def windows_of(
    encoder: TextEncoder, manifest: Manifest, texts: Sequence[str]
) -> tuple[list[str], list[int]]:
    """Returns the windows of all texts, and the number of windows of each text.

    Each text is its own window, if the index has no windows. Raises `SettingsError` if the encoder
    cannot split texts.
    """
    if manifest.long != SPLIT:
        return list(texts), [1] * len(texts)
    if not isinstance(encoder, WindowEncoder):
        raise SettingsError(
            f"the encoder {encoder.name} has no method windows, so it cannot split long texts: "
            "build the index with --long cut"
        )
    found = encoder.windows(manifest.side, texts, manifest.overlap)
    return [window for each in found for window in each], [len(each) for each in found]


def best_window(logits: FloatArray, owners: Integers, count: int) -> FloatArray:
    """Returns the highest logit of each of `count` texts, from those of windows and their owners.

    Each text owns one window or more.
    """
    best = np.full(count, -np.inf, np.float32)
    np.maximum.at(best, owners, logits)
    return best
