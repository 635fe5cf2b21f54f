"""Rows by passage id in memory, without a Python object for each: a million take about 40 MB.

Ids stand end to end as UTF-8, and are looked up by a number each, in sorted runs. Numbers that are
equal by chance do no harm: the bytes are compared as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dipair_index.stores.token_store import MAX_ID_BYTES

Integers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

_MULTIPLIER = 0x9E3779B97F4A7C15


class Keys:
    """Keys end to end in `text`, none of them empty, of these `lengths`."""

    def __init__(self, text: npt.NDArray[np.uint8], lengths: npt.NDArray[np.uint16]) -> None:
        self.text = text
        self.lengths = lengths

    @classmethod
    def of(cls, keys: Sequence[bytes]) -> Keys:
        """The given keys, in their order."""
        lengths = np.fromiter(map(len, keys), np.uint16, len(keys))
        return cls(np.frombuffer(b"".join(keys), np.uint8), lengths)

    @cached_property
    def starts(self) -> Integers:
        """Where each key begins."""
        starts: Integers = np.cumsum(self.lengths, dtype=np.int64)
        starts -= self.lengths
        return starts

    def hashes(self) -> Hashes:
        """A number for each key: the sum of (byte + 1) * multiplier ** (place + 1), 64 bits.

        It is written into stores, so it stays as it is.
        """
        if not len(self.lengths):
            return np.empty(0, np.uint64)
        powers = np.multiply.accumulate(np.full(MAX_ID_BYTES + 1, _MULTIPLIER, np.uint64))
        # one is added, because a zero byte at the end must count too
        terms = self.text.astype(np.uint64) + np.uint64(1)
        terms *= powers[_spread(np.zeros_like(self.starts), self.lengths)]
        return np.add.reduceat(terms, self.starts)

    def equal(self, places: Integers, others: Keys, other_places: Integers) -> Flags:
        """Whether the keys at `places` are those at the other's `other_places`."""
        lengths = self.lengths[places]
        same: Flags = lengths == others.lengths[other_places]
        if same.any():
            lengths = lengths[same]
            mine = self.text[_spread(self.starts[places[same]], lengths)]
            theirs = others.text[_spread(others.starts[other_places[same]], lengths)]
            firsts = np.cumsum(lengths, dtype=np.int64) - lengths
            same[same] = np.logical_and.reduceat(mine == theirs, firsts)
        return same

    def strings(self, chosen: Flags) -> list[str]:
        """The chosen keys as ids."""
        text = self.text.tobytes()
        starts, lengths = self.starts[chosen].tolist(), self.lengths[chosen].tolist()
        return [
            text[start : start + length].decode()
            for start, length in zip(starts, lengths, strict=True)
        ]


class IdTable:
    """Which row each id has. Rows are 0 or more; a row is given to one id only, and once."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def update(self, added: Sequence[tuple[Keys, Hashes, Integers]], gone: Integers) -> None:
        """Takes in keys, their hashes and rows, but for the rows in `gone`, which it forgets."""
        gone = np.sort(gone)
        for run in self._runs:
            _forget(run.rows, gone)
        if added:
            self._runs.append(_joined(added, gone))
        # each run is twice the next at least, so that there are few, and few merges in all
        while len(self._runs) > 1 and len(self._runs[-2].rows) < 2 * len(self._runs[-1].rows):
            parts = [(run.keys, run.hashes(), run.rows) for run in self._runs[-2:]]
            place_bits = max(run.place_bits for run in self._runs[-2:])
            self._runs[-2:] = [_joined(parts, gone, place_bits)]
        self._runs = [run for run in self._runs if len(run.rows)]

    def find(self, keys: Sequence[bytes]) -> Integers:
        """The row of each key, -1 for one that is absent."""
        rows = np.full(len(keys), -1, np.int64)
        if keys:
            asked = Keys.of(keys)
            hashes = asked.hashes()
            for run in self._runs:
                # an id is in several runs where it was replaced, but in one alone has it a row
                np.maximum(rows, run.find(asked, hashes), out=rows)
        return rows

    def between(self, rows: range) -> list[str]:
        """The ids that have one of the rows, in the order of these."""
        found: list[tuple[int, str]] = []
        for run in self._runs:
            chosen = (run.rows >= rows.start) & (run.rows < rows.stop)
            found += zip(run.rows[chosen].tolist(), run.keys.strings(chosen), strict=True)
        return [passage_id for _, passage_id in sorted(found)]

    def __len__(self) -> int:
        return sum(int(np.count_nonzero(run.rows >= 0)) for run in self._runs)

    def __iter__(self) -> Iterator[str]:
        """Ids in the order of their characters' code points."""
        return iter(sorted(each for run in self._runs for each in run.keys.strings(run.rows >= 0)))


class _Run:
    """Keys with their rows, -1 for a key that has none any more; no key stands here twice.

    `_sorted` has a number for each key: the place of the key in its lowest bits, as many as
    `place_bits` or more, and the hash of the key, as much as there is room for, in the others.
    """

    def __init__(self, keys: Keys, hashes: Hashes, rows: Integers, place_bits: int) -> None:
        self.keys = keys
        self.rows = rows
        self.place_bits = max(place_bits, len(rows).bit_length())
        self._places = np.uint64((1 << self.place_bits) - 1)
        self._sorted = hashes & ~self._places
        self._sorted |= np.arange(len(rows), dtype=np.uint64)
        self._sorted.sort()

    def hashes(self) -> Hashes:
        """The hash of each key, but for the bits whose room its place has taken."""
        hashes = np.empty_like(self._sorted)
        hashes[self._sorted & self._places] = self._sorted & ~self._places
        return hashes

    def find(self, asked: Keys, hashes: Hashes) -> Integers:
        """The row of each key, -1 for one that is absent."""
        rows = np.full(len(hashes), -1, np.int64)
        hashes = hashes & ~self._places
        left = np.arange(len(hashes))
        at = np.searchsorted(self._sorted, hashes)
        while len(left):
            found = self._sorted.take(at, mode="clip")
            candidate = (at < len(self._sorted)) & (found & ~self._places == hashes[left])
            left, at = left[candidate], at[candidate]
            places = (found[candidate] & self._places).astype(np.int64)
            same = self.keys.equal(places, asked, left)
            rows[left[same]] = self.rows[places[same]]
            # other keys with the same hash follow
            left, at = left[~same], at[~same] + 1
        return rows


def _joined(
    parts: Sequence[tuple[Keys, Hashes, Integers]], gone: Integers, place_bits: int = 0
) -> _Run:
    """One run of the keys whose rows are not in `gone`, which is sorted.

    The lowest `place_bits` of the hashes may be missing.
    """
    text = np.concatenate([keys.text for keys, _, _ in parts])
    lengths = np.concatenate([keys.lengths for keys, _, _ in parts])
    hashes = np.concatenate([each for _, each, _ in parts])
    rows = np.concatenate([each for _, _, each in parts])
    _forget(rows, gone)
    there = rows >= 0
    if not there.all():
        text = text[np.repeat(there, lengths)]
        lengths, hashes, rows = lengths[there], hashes[there], rows[there]
    return _Run(Keys(text, lengths), hashes, rows, place_bits)


def _forget(rows: Integers, gone: Integers) -> None:
    """Makes those of the rows -1 that are in `gone`, which is sorted."""
    if len(gone):
        at = np.minimum(np.searchsorted(gone, rows), len(gone) - 1)
        rows[gone[at] == rows] = -1


def _spread(starts: Integers, lengths: npt.NDArray[np.uint16]) -> Integers:
    """start, start + 1, … of each, as many as its length, end to end."""
    firsts = np.cumsum(lengths, dtype=np.int64) - lengths
    places: Integers = np.repeat(starts - firsts, lengths)
    places += np.arange(len(places))
    return places
