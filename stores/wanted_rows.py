"""The rows of an ANN index that a search may find: live ones, and those that a filter accepts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dipair_index.stores.packed_ids import PackedIds

Accepts: TypeAlias = Callable[[list[str]], list[bool]]
"""A function that returns for each of some ids whether it may be found."""


class WantedRows:
    """Tells which rows may be found: those not deleted, and accepted by a filter if there is one.

    Each id is judged once, although FAISS proposes it again.
    """

    def __init__(self, deleted: Collection[str], accepts: Accepts | None) -> None:
        self.filters = accepts is not None
        self._deleted = deleted
        self._accepts = accepts
        self._judged: dict[str, bool] = {}

    def among(self, rows: npt.NDArray[np.int64], ids: PackedIds) -> Any:
        """Returns which of `rows` are wanted: an index of arrays (rows,)."""
        if not self._deleted and self._accepts is None:
            return slice(None)
        names = ids.at(rows)
        live = [each not in self._deleted for each in names]
        if self._accepts is not None:
            judged = self._judged
            new = [
                each for each, kept in zip(names, live, strict=True) if kept and each not in judged
            ]
            judged.update(zip(new, self._accepts(new), strict=True))
            live = [kept and judged[each] for each, kept in zip(names, live, strict=True)]
        return np.array(live, bool)
