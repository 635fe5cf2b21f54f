"""A sequence of strings in one buffer, in memory or in two files read through a memory map.

The layout is that of Arrow's string array. pyarrow is not used, since its import takes 300 ms, by
which the first search of a process would be slower.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from dipair_index.errors import StoreError
from dipair_index.files import replacing


class PackedIds(Sequence[str]):
    """A sequence of strings over one buffer of UTF-8, `text`, and the offsets of their `ends`."""

    def __init__(self, text: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> None:
        self.text = text
        self.ends = ends

    @classmethod
    def from_ids(cls, ids: Iterable[str]) -> PackedIds:
        """Packs the given ids, in their order."""
        if isinstance(ids, PackedIds):
            return ids
        text, ends = bytearray(), array("q")
        for passage_id in ids:
            text += passage_id.encode()
            ends.append(len(text))
        return cls(np.frombuffer(text, np.uint8), np.frombuffer(ends, np.int64))

    @classmethod
    def from_keys(cls, keys: Sequence[bytes]) -> PackedIds:
        """Packs ids that are given as UTF-8, in their order."""
        ends = np.cumsum(np.fromiter(map(len, keys), np.int64, len(keys)))
        return cls(np.frombuffer(b"".join(keys), np.uint8), ends)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """The bytes of each string."""
        return np.diff(self.ends, prepend=0)

    def starts(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns the offsets at which the strings of these rows begin."""
        return np.where(rows > 0, self.ends[rows - 1], 0)

    def select(self, chosen: npt.NDArray[np.bool_]) -> list[str]:
        """Returns the strings of the rows that are true in `chosen`."""
        text = self.text.tobytes()
        rows = np.flatnonzero(chosen)
        spans = zip(self.starts(rows).tolist(), self.ends[rows].tolist(), strict=True)
        return [text[start:end].decode() for start, end in spans]

    def save(self, folder: Path) -> None:
        """Writes `ids.npy` (the text) and `id_ends.npy` into `folder`."""
        for name, values in (("ids.npy", self.text), ("id_ends.npy", self.ends)):
            # never into an old file, since these ids may be read from it
            with replacing(folder / name) as unfinished, unfinished.open("wb") as target:
                np.save(target, values)

    @classmethod
    def load(cls, folder: Path) -> PackedIds:
        """Reads the ids that `save` wrote; raises `StoreError` if they are absent or damaged."""
        try:
            text = np.load(folder / "ids.npy", mmap_mode="r")
            ends = np.load(folder / "id_ends.npy", mmap_mode="r")
        except (OSError, EOFError, ValueError) as error:
            raise StoreError(f"cannot read the ids in {folder}: {error}; build it again") from error
        if len(ends) and ends[-1] != len(text):
            raise StoreError(f"the ids in {folder} are damaged: build it again")
        # plain arrays over the memory map, since slicing a memmap takes three times as long
        return cls(np.asarray(text), np.asarray(ends))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        if row < 0:
            row += len(self)
        if not 0 <= row < len(self):
            raise IndexError(row)
        start = self.ends[row - 1] if row else 0
        return self.text[start : self.ends[row]].tobytes().decode()

    def at(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Returns the ids of an array of rows, (ids,), ten times faster than one by one."""
        starts = np.where(rows > 0, self.ends[rows - 1], 0).tolist()
        text = self.text.data
        return [
            str(text[start:end], "utf-8")
            for start, end in zip(starts, self.ends[rows].tolist(), strict=True)
        ]

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))
