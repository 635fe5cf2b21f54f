"""Whether the head's time a pair and its memory stay flat, and how it shares cores.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/growth.py --clock cpu

- pairs: 10^2 to 10^6 pairs of one query by `HeadScorer.encoded_logits`, each number in a process of
  its own, from int8 rows that a memory map holds; memory beyond the rows
- threads: the same 10,000 pairs by one thread and by two, of this process
- processes: two processes at once, each with one thread, and each with as many as there are cores,
  over the time of one alone with one thread: what they lose to each other

Threads and processes are by the wall clock, since nothing else tells: on a quiet machine only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dipair_index.threads import limit_threads, thread_count

BLOCK, SHARED = 1000, 10_000


def make_rows(folder: Path, pairs: int) -> None:
    import numpy as np

    from dipair_index.stores.codecs import open_codec

    codec = open_codec("int8", tokens_per_passage=8, dim=256)
    block = codec.encode(np.random.default_rng(0).standard_normal((BLOCK, 8, 256), np.float32))
    made = np.lib.format.open_memmap(
        folder / "rows.npy", mode="w+", dtype=np.uint8, shape=(pairs, codec.bytes_per_passage)
    )
    for start in range(0, pairs, BLOCK):
        made[start : start + BLOCK] = block[: pairs - start]


def memory() -> int:
    """The anonymous resident memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def measure(folder: Path, pairs: int, rounds: int, clock_name: str) -> dict[str, Any]:
    """Times the head in this process, with all threads that it may use."""
    import numpy as np
    import torch

    from dipair_index.models.dipair import DiPairConfig, DiPairModel
    from dipair_index.rerank.head import HeadScorer
    from dipair_index.stores.codecs import open_codec

    clock = time.process_time if clock_name == "cpu" else time.perf_counter
    torch.manual_seed(0)
    encoder = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 8}
    encoder |= {"num_attention_heads": 1, "intermediate_size": 32}
    scorer = HeadScorer(DiPairModel(DiPairConfig(encoder=encoder)).eval())
    codec = open_codec("int8", tokens_per_passage=8, dim=256)
    rows = np.load(folder / "rows.npy", mmap_mode="r")[:pairs]
    query = np.random.default_rng(1).standard_normal((4, 256), np.float32)
    scorer.encoded_logits(query, rows[:100], codec)
    before, times = memory(), []
    for _ in range(rounds):
        start = clock()
        scorer.encoded_logits(query, rows, codec)
        times.append(clock() - start)
    # once more and not timed, so that what is watched meanwhile costs no time
    with ThreadPoolExecutor(1) as pool:
        scoring = pool.submit(scorer.encoded_logits, query, rows, codec)
        peak = memory()
        while not scoring.done():
            peak = max(peak, memory())
            time.sleep(0.002)
    return {"us": 1e6 * statistics.median(times) / pairs, "beyond": peak - before}


def start(folder: Path, pairs: int, rounds: int, clock: str, threads: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--in", str(folder), "--pairs", str(pairs)]
    command += ["--rounds", str(rounds), "--clock", clock, "--threads", str(threads)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    answer, _ = process.communicate()
    found: dict[str, Any] = json.loads(answer)
    return found


def grow(folder: Path, pairs: list[int], clock: str) -> None:
    print("| pairs | µs a pair | MiB beyond the rows | load |\n|--:|--:|--:|--:|")
    for count in pairs:
        rounds = max(1, min(30, 30_000 // count))
        found = result(start(folder, count, rounds, clock, 1))
        beyond = found["beyond"] / 2**20
        print(f"| {count:,} | {found['us']:.0f} | {beyond:.1f} | {os.getloadavg()[0]:.1f} |")


def share(folder: Path) -> None:
    """Compares one process and two in turns; prints the median of ratios within a turn."""
    cores, turns = thread_count(), 3
    names = [f"1 process, {cores} threads", "2 processes, 1 thread each"]
    names += [f"2 processes, {cores} threads each"]
    pairs_per_second: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(turns):
        alone = 1e6 / result(start(folder, SHARED, 3, "wall", 1))["us"]
        for name, (count, threads) in zip(names, [(1, cores), (2, 1), (2, cores)], strict=True):
            running = [start(folder, SHARED, 5, "wall", threads) for _ in range(count)]
            whole = sum(1e6 / result(process)["us"] for process in running)
            pairs_per_second[name].append(whole / alone)
    print("\n| | pairs/s in all, over one process with one thread | load |\n|---|--:|--:|")
    for name, ratios in pairs_per_second.items():
        print(f"| {name} | {statistics.median(ratios):.2f}x | {os.getloadavg()[0]:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[10**n for n in range(2, 7)])
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--no-share", action="store_true")
    parser.add_argument("--folder", type=Path, help="make the rows here, 2 kB a pair")
    parser.add_argument("--in", dest="inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        limit_threads(asked.threads)
        print(json.dumps(measure(asked.inside, asked.pairs[0], asked.rounds, asked.clock)))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        make_rows(Path(folder), max(*asked.pairs, SHARED))
        grow(Path(folder), asked.pairs, asked.clock)
        if not asked.no_share:
            share(Path(folder))


if __name__ == "__main__":
    main()
