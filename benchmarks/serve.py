"""What the server adds to the library, what it bears, and whether it comes back.

    python benchmarks/serve.py --index-dir dipair.index [--parts ratio second clients burst]

The server is a process of its own, as users start it; the clients are threads of this one, each
with one connection that is kept alive. /health is asked by a third process, as by a load balancer,
since the clients' threads would delay its clock. All figures of a part are ratios within one run.
All parts together take about 13 minutes on two idle cores.

ratio     100 indexed passages as texts: over HTTP, and by `DiPairIndex.rerank` in this process, in
          turns; the medians
second    100 texts that nobody has seen, and the same again for another query
clients   answers a second by 1, 4 and 16 clients, each of which asks again when it is answered
burst     16 clients for `--seconds`, which is four times what saturates the server (4 clients):
          its memory, /health's p99, and what became of every question; then one client alone
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dipair_index.rerank.index import DiPairIndex

QUERIES = (
    "why does dough rise",
    "how do bees find flowers",
    "why do the tides follow the moon",
    "what makes a violin sound bright",
)
DOCUMENTS = 100
TOLERANCE = 1e-5


class Client:
    """One connection to the server, which is kept alive."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._connection = http.client.HTTPConnection(*address, timeout=120)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def seconds(self, path: str, body: Any) -> float:
        began = time.perf_counter()
        status, answer = self.ask("POST", path, body)
        assert status == 200, answer
        return time.perf_counter() - began


@dataclass
class Seen:
    """What became of the questions of all clients."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    lost: int = 0
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def start(index_dir: Path) -> tuple[subprocess.Popen[str], tuple[str, int]]:
    """Starts the server; its log goes nowhere once its address has been read."""
    command = [sys.executable, "-m", "dipair_index", "serve", "--index-dir", str(index_dir)]
    command += ["--port", "0", "--deadline", "120"]  # since what is measured is not to be dropped
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r" at (http://\S+)$", line):
            threading.Thread(target=lambda: list(process.stderr or ()), daemon=True).start()
            parts = urlsplit(found[1])
            return process, (parts.hostname or "", parts.port or 0)
    raise SystemExit("the server did not start")


def resident(process: subprocess.Popen[str]) -> float:
    """The resident memory of a process, in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return int(found[1]) / 1000 if found else 0.0


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def ratio(index: DiPairIndex, address: tuple[str, int], texts: list[str]) -> None:
    client, body = Client(address), {"query": QUERIES[0], "documents": texts}
    for _ in range(5):
        client.seconds("/v2/rerank", body)
        index.rerank(QUERIES[0], texts=texts)
    by_http, by_call = [], []
    for _ in range(50):
        by_http.append(client.seconds("/v2/rerank", body))
        began = time.perf_counter()
        index.rerank(QUERIES[0], texts=texts)
        by_call.append(time.perf_counter() - began)
    medians = statistics.median(by_http), statistics.median(by_call)
    print(f"ratio: {DOCUMENTS} cached passages take {1000 * medians[0]:.1f} ms over HTTP and "
          f"{1000 * medians[1]:.1f} ms in Python: {medians[0] / medians[1]:.2f} times")  # fmt: skip


def second(address: tuple[str, int], texts: list[str]) -> None:
    client, firsts, seconds = Client(address), [], []
    for _ in range(3):
        new = [f"{text} This is told for the time number {time.time_ns()}." for text in texts]
        firsts.append(client.seconds("/v2/rerank", {"query": QUERIES[0], "documents": new}))
        again = [
            client.seconds("/v2/rerank", {"query": query, "documents": new}) for query in QUERIES
        ]
        seconds.append(statistics.median(again))
    first, later = statistics.median(firsts), statistics.median(seconds)
    print(f"second: {DOCUMENTS} new texts take {first:.2f} s, and the same again "
          f"{1000 * later:.1f} ms: {first / later:.0f} times as fast")  # fmt: skip


def ask_for(
    address: tuple[str, int], questions: list[tuple[Any, Any]], seconds: float, clients: int
) -> Seen:
    """Lets clients ask questions, a body and the right answer each, for some seconds."""
    seen, end = Seen(), time.monotonic() + seconds

    def one(number: int) -> None:
        client = Client(address)
        while time.monotonic() < end:
            body, right = questions[number % len(questions)]
            began = time.perf_counter()
            try:
                status, answer = client.ask("POST", "/v2/rerank", body)
            except (OSError, http.client.HTTPException):
                with seen.lock:
                    seen.lost += 1
                client = Client(address)
                continue
            with seen.lock:
                seen.statuses[status] += 1
                seen.seconds.append(time.perf_counter() - began)
                seen.wrong += status == 200 and not is_right(answer, right)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def is_right(answer: Any, right: list[tuple[int, float]]) -> bool:
    found = [(each["index"], each["relevance_score"]) for each in answer["results"]]
    return [place for place, _ in found] == [place for place, _ in right] and all(
        abs(score - other) < TOLERANCE for (_, score), (_, other) in zip(found, right, strict=True)
    )


def clients(address: tuple[str, int], questions: list[tuple[Any, Any]], seconds: float) -> None:
    for count in (1, 4, 16):
        seen = ask_for(address, questions, seconds, count)
        print(f"clients: {count} get {len(seen.seconds) / seconds:.1f} answers a second, "
              f"p50 {1000 * percentile(seen.seconds, 0.5):.0f} ms, "
              f"p99 {1000 * percentile(seen.seconds, 0.99):.0f} ms, "
              f"statuses {dict(seen.statuses)}, wrong {seen.wrong}, lost {seen.lost}")  # fmt: skip


def health_seconds(address: tuple[str, int], seconds: float) -> list[float]:
    """Asks /health ten times a second, each time on a new connection; infinity is a failure."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        try:
            status, _ = Client(address).ask("GET", "/health")
        except (OSError, http.client.HTTPException):
            status = 0
        found.append(time.perf_counter() - began if status == 200 else float("inf"))
        time.sleep(0.1)
    return found


def burst(
    address: tuple[str, int],
    process: subprocess.Popen[str],
    questions: list[tuple[Any, Any]],
    seconds: float,
) -> None:
    before = ask_for(address, questions, 5, 1)
    memory: list[float] = []
    ended = threading.Event()

    def watch_memory() -> None:
        while not ended.wait(1.0):
            memory.append(resident(process))

    watching = threading.Thread(target=watch_memory)
    watching.start()
    with multiprocessing.get_context("spawn").Pool(1) as other:
        asking = other.apply_async(health_seconds, (address, seconds))
        seen = ask_for(address, questions, seconds, 16)
        ended.set()
        watching.join()
        healths = asking.get()
    time.sleep(1)
    after = ask_for(address, questions, 4, 1)
    warm = memory[len(memory) // 10 :]  # the first tenth is the warm-up
    print(f"burst: 16 clients for {seconds:.0f} s: statuses {dict(seen.statuses)}, "
          f"wrong {seen.wrong}, lost {seen.lost}; p50 {1000 * percentile(seen.seconds, 0.5):.0f} "
          f"ms, p99 {1000 * percentile(seen.seconds, 0.99):.0f} ms")  # fmt: skip
    print(f"burst: /health p50 {1000 * percentile(healths, 0.5):.1f} ms, "
          f"p99 {1000 * percentile(healths, 0.99):.1f} ms, at most {1000 * max(healths):.1f} ms, "
          f"of {len(healths)}")  # fmt: skip
    print(f"burst: memory {warm[0]:.0f} MB after the warm-up, at most {max(warm):.0f} MB "
          f"({100 * (max(warm) / warm[0] - 1):+.1f} %), {warm[-1]:.0f} MB at the end")  # fmt: skip
    medians = [1000 * statistics.median(each.seconds) for each in (before, after)]
    print(f"burst: one client's p50 was {medians[0]:.0f} ms before, and is {medians[1]:.0f} ms "
          "within 5 s after")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index-dir", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--client-seconds", type=float, default=20.0)
    parts = ("ratio", "second", "clients", "burst")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    chosen = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%F %T')}")
    index = DiPairIndex.open(chosen.index_dir)
    with index.lent() as opened:
        ids = [each for _, each in zip(range(DOCUMENTS), opened.snapshot, strict=False)]
        texts = [passage.full_text for passage in opened.snapshot.passages(ids)]
    questions = [
        (
            {"query": query, "documents": texts},
            [(int(each.id), each.score) for each in index.rerank(query, texts=texts)],
        )
        for query in QUERIES
    ]
    process, address = start(chosen.index_dir)
    try:
        if "ratio" in chosen.parts:
            ratio(index, address, texts)
        if "second" in chosen.parts:
            second(address, texts)
        if "clients" in chosen.parts:
            clients(address, questions, chosen.client_seconds)
        if "burst" in chosen.parts:
            burst(address, process, questions, chosen.seconds)
    finally:
        process.terminate()
        print(f"the server ended with {process.wait(60)}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
