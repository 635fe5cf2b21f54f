"""Windows of passages that are longer than the model reads: rows of a part under derived ids.

The first window has the passage's id, the others that id with a separator and their number. Texts
are stored whole, under the passage's id alone, with the number of windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from dipair_index.errors import FormatError
from dipair_index.stores.packed_ids import PackedIds

SEPARATOR = "\x1f"
"""ASCII's unit separator, which no id of an index with windows may contain."""


def check_separable(ids: Iterable[str]) -> None:
    """Raises `FormatError` if an id contains the separator."""
    for each in ids:
        if SEPARATOR in each:
            raise FormatError(
                f"the passage id {each!r} contains U+001F, which numbers the windows of long "
                "passages: rename it, or build with --long cut"
            )


def window_keys(ids: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Returns the ids of all windows of passages, each passage's one after the other."""
    return [
        f"{passage_id}{SEPARATOR}{number}" if number else passage_id
        for passage_id, count in zip(ids, counts, strict=True)
        for number in range(count)
    ]


def passage_of(key: str) -> str:
    """Returns the id of the passage that a window belongs to."""
    return key.partition(SEPARATOR)[0]


def first_windows(keys: PackedIds) -> PackedIds:
    """Returns the ids of the passages among the ids of their windows, in the same order."""
    separators = np.flatnonzero(keys.text == ord(SEPARATOR))
    first = np.ones(len(keys), bool)
    first[np.searchsorted(keys.ends, separators, side="right")] = False
    return PackedIds.from_ids(keys.select(first))
