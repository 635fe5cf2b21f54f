"""Token stores beside a flat file: the time of writing, gathering and opening, and their bytes.

    python benchmarks/token_stores.py --passages 10000 100000

Times are medians of one run, turn by turn: a put of 2,048 passages beside an append to a file with
fsync; a gather of 1,000 random passages beside the same from a flat numpy memory map, once with
decoding on both sides, and once without ("raw"), all of it warm. On a busy machine, --cpu-time
counts the CPU time of gathers. A store is opened in a process of its own, which reads one passage:
its memory is that of the whole process, libraries included. The tokens are random, the ids are
numbers like MS MARCO's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import lmdb  # noqa: F401 - so that no measurement contains an import
import numpy as np
import tensorstore  # noqa: F401

from dipair_index.stores.backends import open_token_store
from dipair_index.stores.codecs import EncodedRows
from dipair_index.stores.names import CODEC_NAMES, STORE_NAMES
from dipair_index.stores.token_store import TokenStore

TOKENS, DIM = 8, 256
BATCH = 2048
CANDIDATES = 1000
BYTES_OF_NUMBER = {"float32": 4, "float16": 2, "int8": 1, "int4": 0.5}
HEADER = (
    "| store | codec | passages | write s | ratio | gather ms | ratio | raw ms | ratio "
    "| open ms | MiB | bytes of a row | on disk | at most |\n|---|---|" + "--:|" * 12
)

Step = Callable[[], object]
Clock = Callable[[], float]


def opened(kind: str, folder: Path, codec: str, *, readonly: bool = False) -> TokenStore:
    return open_token_store(
        kind, folder, tokens_per_passage=TOKENS, dim=DIM, codec=codec, readonly=readonly
    )


def some_ids(count: int) -> list[str]:
    numbers = np.random.default_rng(0).choice(8_841_823, size=count, replace=False)
    return [str(number) for number in np.sort(numbers).tolist()]


def seconds(step: Step, clock: Clock = time.perf_counter) -> float:
    start = clock()
    step()
    return clock() - start


def side_by_side(
    pairs: Iterable[tuple[Step, Step]], clock: Clock = time.perf_counter
) -> tuple[float, float]:
    """The median of the first steps' seconds, and its ratio to that of the second steps."""
    times = []
    for number, pair in enumerate(pairs):
        # by turns, since whoever goes first pays for what others left: cold caches, a disk at work
        order = (0, 1) if number % 2 else (1, 0)
        taken = {which: seconds(pair[which], clock) for which in order}
        times.append([taken[0], taken[1]])
    first, second = np.median(times, axis=0).tolist()
    return first, first / second


def writing(store: TokenStore, target: BinaryIO, ids: list[str]) -> Iterator[tuple[Step, Step]]:
    def append(rows: EncodedRows) -> None:
        target.write(rows.data)
        target.flush()
        os.fsync(target.fileno())

    rng = np.random.default_rng(1)
    for start in range(0, len(ids), BATCH):
        batch = ids[start : start + BATCH]
        tokens = rng.standard_normal((len(batch), TOKENS, DIM), dtype=np.float32)
        rows = store.codec.encode(tokens)
        yield partial(store.put_encoded, batch, rows), partial(append, rows)


def gathering(
    store: TokenStore, rows: EncodedRows, ids: list[str], *, raw: bool, repeats: int
) -> Iterator[tuple[Step, Step]]:
    decode = store.codec.decode
    rng = np.random.default_rng(2)
    for _ in range(repeats):
        places = rng.choice(len(ids), size=CANDIDATES, replace=False)
        asked = [ids[place] for place in places.tolist()]
        if raw:
            yield partial(store.get_encoded, asked), partial(rows.__getitem__, places)
        else:
            yield partial(store.get, asked), partial(lambda at: decode(rows[at]), places)


def gather(
    kind: str, folder: Path, codec: str, ids: list[str], repeats: int, clock: Clock
) -> list[tuple[float, float]]:
    """Times gathering beside a flat file, of decoded and of raw rows."""
    with opened(kind, folder / "store", codec, readonly=True) as store:
        shape = (len(ids), store.codec.bytes_per_passage)
        # a memmap is slower to index than the array that it is
        rows = np.asarray(np.memmap(folder / "flat", np.uint8, "r", shape=shape))
        for start in range(0, len(ids), BATCH):
            part = slice(start, start + BATCH)
            if not np.array_equal(store.get_encoded(ids[part]), rows[part]):
                raise SystemExit(f"{kind} does not return what was put")
        return [
            side_by_side(gathering(store, rows, ids, raw=raw, repeats=repeats), clock)
            for raw in (False, True)
        ]


def open_and_read(kind: str, folder: Path, codec: str, passage_id: str) -> tuple[float, float]:
    """Opens a store and reads a passage: seconds, and peak memory in MiB."""

    def work() -> None:
        with opened(kind, folder / "store", codec, readonly=True) as store:
            store.get([passage_id])

    taken = seconds(work)
    status = Path("/proc/self/status").read_text().split()
    return taken, int(status[status.index("VmHWM:") + 1]) / 1024


def row(kind: str, codec: str, ids: list[str], folder: Path, repeats: int, clock: Clock) -> str:
    with opened(kind, folder / "store", codec) as store, (folder / "flat").open("wb") as target:
        written = side_by_side(writing(store, target, ids))
        stored, width = store.stored_bytes() / len(ids), store.codec.bytes_per_passage
    # each task in a process of its own
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        decoded, raw = pool.apply(gather, (kind, folder, codec, ids, repeats, clock))
        opens = [pool.apply(open_and_read, (kind, folder, codec, ids[at])) for at in range(5)]
    opening, memory = np.median(opens, axis=0)
    cells = [
        kind, codec, f"{len(ids):,}",
        f"{written[0] * -(-len(ids) // BATCH):.1f}", f"{written[1]:.2f}",
        f"{decoded[0] * 1e3:.2f}", f"{decoded[1]:.2f}", f"{raw[0] * 1e3:.2f}", f"{raw[1]:.2f}",
        f"{opening * 1e3:.0f}", f"{memory:.0f}", f"{width:,}", f"{stored:,.0f}",
        f"{1.1 * TOKENS * DIM * BYTES_OF_NUMBER[codec] + 16:,.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--stores", nargs="+", choices=STORE_NAMES, default=STORE_NAMES)
    parser.add_argument("--codecs", nargs="+", choices=CODEC_NAMES, default=CODEC_NAMES)
    parser.add_argument("--repeats", type=int, default=41, help="Gathers of each kind")
    parser.add_argument("--folder", type=Path, help="Where there is room for twice the tokens")
    parser.add_argument("--cpu-time", action="store_true", help="Of gathers, in all threads")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    print(HEADER)
    for count in args.passages:
        ids = some_ids(count)
        for kind in args.stores:
            for codec in args.codecs:
                with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                    print(row(kind, codec, ids, Path(folder), args.repeats, clock), flush=True)


if __name__ == "__main__":
    main()
