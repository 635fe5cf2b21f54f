"""Rows by passage id: `IdTable` against a dictionary. `python benchmarks/id_tables.py`.

Each in a process of its own; seconds are those of the CPU.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dipair_index.stores.id_table import Hashes, IdTable, Integers, hashes_of
from dipair_index.stores.packed_ids import PackedIds

PUT = 2048
NONE = np.empty(0, np.int64)
Change = tuple[PackedIds, Hashes, Integers]


class Dictionary:
    """A dictionary with the methods of `IdTable`, which keeps a Python object for each id."""

    def __init__(self) -> None:
        self._rows: dict[bytes, int] = {}

    def update(self, added: Sequence[Change], deleted: Integers) -> None:
        for keys, _, rows in added:
            text, start = keys.text.tobytes(), 0
            for end, row in zip(keys.ends.tolist(), rows.tolist(), strict=True):
                self._rows[text[start:end]] = row
                start = end

    def find(self, keys: Sequence[bytes]) -> Integers:
        return np.fromiter((self._rows.get(key, -1) for key in keys), np.int64, len(keys))


def change(keys: list[bytes], first: int) -> Change:
    packed = PackedIds.from_keys(keys)
    return packed, hashes_of(packed), np.arange(first, first + len(keys))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def median(work: Callable[[int], object]) -> float:
    spent = []
    for run in range(30):
        start = time.process_time()
        work(run)
        spent.append(time.process_time() - start)
    return float(np.median(spent))


def measure(kind: str, count: int) -> None:
    keys = [b"%d" % (7919 * row % 10**9) for row in range(count)]
    changes = [change(keys[first : first + PUT], first) for first in range(0, count, PUT)]
    new = [change([b"n%d" % row for row in range(at, at + PUT)], count + at)
           for at in range(0, 30 * PUT, PUT)]  # fmt: skip
    asked = [keys[row] for row in np.random.default_rng(0).integers(0, count, 1000).tolist()]
    before, start = resident(), time.process_time()
    table = IdTable() if kind == "IdTable" else Dictionary()
    table.update(changes, NONE)
    opened, size = time.process_time() - start, resident() - before
    lookup = median(lambda run: table.find(asked))
    append = median(lambda run: table.update([new[run]], NONE))
    print(
        f"| {count:,} | {kind} | {1e3 * opened:,.0f} | {size / 2**20:.0f} | {1e3 * lookup:.1f} "
        f"| {1e3 * append:.1f} |"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1], int(sys.argv[2]))
    else:
        print("| ids | | open, ms | memory, MiB | find 1,000, ms | add 2,048, ms |")
        print("|--:|---|--:|--:|--:|--:|", flush=True)
        for count in (10**4, 10**5, 10**6):
            for kind in ("IdTable", "dict"):
                subprocess.run([sys.executable, __file__, kind, str(count)], check=True)
