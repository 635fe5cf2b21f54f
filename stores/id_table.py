"""A table of rows by passage id, without Python objects: a million ids take about 40 MB.

Ids are packed, and found by their hashes in sorted runs, as in a log-structured merge tree. The
bytes are compared as well, so equal hashes are harmless. A dictionary would save a hundred lines of
code, but it takes three times the memory, and three times as long to build when a store is opened
(benchmarks/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from dipair_index.stores.packed_ids import PackedIds
from dipair_index.stores.token_store import MAX_ID_BYTES

Integers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

_MULTIPLIER = 0x9E3779B97F4A7C15


def hashes_of(keys: PackedIds) -> Hashes:
    """Returns for each key the sum of (byte + 1) * multiplier ** (index + 1) modulo 2**64.

    No key may be empty. Stores contain these hashes, so the function must not change.
    """
    if not len(keys):
        return np.empty(0, np.uint64)
    powers = np.multiply.accumulate(np.full(MAX_ID_BYTES + 1, _MULTIPLIER, np.uint64))
    # one is added, because a zero byte at the end must count too
    terms = keys.text.astype(np.uint64) + np.uint64(1)
    lengths = keys.lengths
    terms *= powers[_spread(np.zeros_like(lengths), lengths)]
    return np.add.reduceat(terms, keys.ends - lengths)


def _equal(keys: PackedIds, indexes: Integers, others: PackedIds, other_indexes: Integers) -> Flags:
    """Returns whether each key at `indexes` equals the other key at `other_indexes`."""
    starts, other_starts = keys.starts(indexes), others.starts(other_indexes)
    lengths = keys.ends[indexes] - starts
    same: Flags = lengths == others.ends[other_indexes] - other_starts
    if same.any():
        lengths = lengths[same]
        equal_bytes = (
            keys.text[_spread(starts[same], lengths)]
            == others.text[_spread(other_starts[same], lengths)]
        )
        same[same] = np.logical_and.reduceat(equal_bytes, np.cumsum(lengths) - lengths)
    return same


class IdTable:
    """Maps each id to a row, 0 or more. A row belongs to one id, and is never assigned again."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def update(
        self, added: Sequence[tuple[PackedIds, Hashes, Integers]], deleted: Integers
    ) -> None:
        """Adds keys with their hashes and rows, and removes the ids of the rows in `deleted`."""
        deleted = np.sort(deleted)
        for run in self._runs:
            _forget(run.rows, deleted)
        if added:
            self._runs.append(_joined(added, deleted))
        # each run has at least twice the length of the next, so there are few runs and few merges
        while len(self._runs) > 1 and len(self._runs[-2].rows) < 2 * len(self._runs[-1].rows):
            last = [(run.keys, run.hashes, run.rows) for run in self._runs[-2:]]
            self._runs[-2:] = [_joined(last, deleted)]
        self._runs = [run for run in self._runs if len(run.rows)]

    def find(self, keys: Sequence[bytes]) -> Integers:
        """Returns the row of each key, -1 if it is absent."""
        rows = np.full(len(keys), -1, np.int64)
        if keys:
            asked = PackedIds.from_keys(keys)
            hashes = hashes_of(asked)
            for run in self._runs:
                # a replaced id is in several runs, but has a row in only one of them
                np.maximum(rows, run.find(asked, hashes), out=rows)
        return rows

    def between(self, rows: range) -> list[str]:
        """Returns the ids of the given rows, in the order of the rows."""
        found: list[tuple[int, str]] = []
        for run in self._runs:
            chosen = (run.rows >= rows.start) & (run.rows < rows.stop)
            found += zip(run.rows[chosen].tolist(), run.keys.select(chosen), strict=True)
        return [passage_id for _, passage_id in sorted(found)]

    def __len__(self) -> int:
        return sum(int(np.count_nonzero(run.rows >= 0)) for run in self._runs)

    def __iter__(self) -> Iterator[str]:
        """Iterates over the ids in the order of their code points."""
        return iter(sorted(each for run in self._runs for each in run.keys.select(run.rows >= 0)))


class _Run:
    """Distinct keys with their hashes and rows; a row of -1 marks a deleted key."""

    def __init__(self, keys: PackedIds, hashes: Hashes, rows: Integers) -> None:
        self.keys = keys
        self.hashes = hashes
        self.rows = rows
        self._order = np.argsort(hashes).astype(np.uint32)

    def find(self, asked: PackedIds, hashes: Hashes) -> Integers:
        """Returns the row of each key, -1 if it is absent."""
        rows = np.full(len(hashes), -1, np.int64)
        left = np.arange(len(hashes))
        at = np.searchsorted(self.hashes, hashes, sorter=self._order)
        while len(left):
            indexes = self._order.take(at, mode="clip").astype(np.int64)
            candidate = (at < len(self.rows)) & (self.hashes[indexes] == hashes[left])
            left, at, indexes = left[candidate], at[candidate], indexes[candidate]
            same = _equal(self.keys, indexes, asked, left)
            rows[left[same]] = self.rows[indexes[same]]
            # try the next key with the same hash
            left, at = left[~same], at[~same] + 1
        return rows


def _joined(added: Sequence[tuple[PackedIds, Hashes, Integers]], deleted: Integers) -> _Run:
    """Returns one run of the keys whose rows are not in the sorted array `deleted`."""
    text = np.concatenate([keys.text for keys, _, _ in added])
    lengths = np.concatenate([keys.lengths for keys, _, _ in added])
    hashes = np.concatenate([each for _, each, _ in added])
    rows = np.concatenate([each for _, _, each in added])
    _forget(rows, deleted)
    present = rows >= 0
    if not present.all():
        text = text[np.repeat(present, lengths)]
        lengths, hashes, rows = lengths[present], hashes[present], rows[present]
    return _Run(PackedIds(text, np.cumsum(lengths)), hashes, rows)


def _forget(rows: Integers, deleted: Integers) -> None:
    """Sets the rows that are in the sorted array `deleted` to -1."""
    if len(deleted):
        at = np.minimum(np.searchsorted(deleted, rows), len(deleted) - 1)
        rows[deleted[at] == rows] = -1


def _spread(starts: Integers, lengths: Integers) -> Integers:
    """Returns the concatenation of the ranges [start, start + length)."""
    firsts = np.cumsum(lengths) - lengths
    offsets: Integers = np.repeat(starts - firsts, lengths)
    offsets += np.arange(len(offsets))
    return offsets
