"""Kills, full disks, cut bodies, slow clients and writers beside: over HTTP, against processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.records import Passage
from dipair_index.rerank.build import add_passages, build_index
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.verification import verify_index

QUERY = "how the bees dance in winter"
SIZE = 5
"""The passages of a request that writes."""
ERROR = {"id", "message", "detail", "error"}


@pytest.fixture
def own_index(tmp_path: Path, exported: DualEncoder, passages: list[Passage]) -> Path:
    folder = tmp_path / "own.index"
    build_index(passages, folder, exported)
    return folder


def batch(number: int) -> list[dict[str, Any]]:
    return [
        {"id": f"b{number}-{each}", "text": f"{QUERY} {number} {each}", "batch": number}
        for each in range(SIZE)
    ]


def held(client: Any, number: int) -> int:
    """How many passages of a batch there are."""
    found = [client.ask("GET", f"/passages/{each['id']}").status for each in batch(number)]
    assert set(found) <= {200, 404}
    return found.count(200)


def write_until_it_dies(client: Any, first: int) -> Iterator[int]:
    """Writes batches one after another; yields the number of each that was answered with 200."""
    number = first
    while True:
        try:
            answer = client.ask("POST", "/passages", batch(number))
        except (OSError, HTTPException):
            return
        assert answer.status == 200, answer
        yield number
        number += 1


@pytest.mark.parametrize(
    "delays", [[0.03], pytest.param([n * 0.007 for n in range(20)], marks=pytest.mark.slow)],
    ids=["once", "often"],
)  # fmt: skip
def test_what_was_answered_is_there_after_a_kill_and_nothing_by_halves(
    delays: list[float], own_index: Path, passages: list[Passage], start: Callable[..., Any]
) -> None:
    first, whole = 0, 0
    for delay in delays:
        server = start("--index-dir", own_index, "--allow-writes")
        answered = []
        for number in write_until_it_dies(server.client, first):
            answered.append(number)
            if len(answered) == 3:  # the next is being written
                threading.Timer(delay, server.process.kill).start()
        assert server.wait() == -signal.SIGKILL
        assert list(verify_index(own_index)) == []
        again = start("--index-dir", own_index, "--allow-writes")
        counts = [held(again.client, number) for number in range(first, first + len(answered) + 1)]
        assert counts[:-1] == [SIZE] * len(answered)
        assert counts[-1] in (0, SIZE)
        whole += counts.count(SIZE)
        first += len(counts)
        assert again.client.get("/info")["index"]["passages"] == len(passages) + SIZE * whole
        assert again.client.post("/passages", batch(first))["added"] == SIZE
        first, whole = first + 1, whole + 1
        assert again.stop() == 0


@pytest.fixture
def small_disk(mounted: Callable[..., Iterator[Path]], tmp_path: Path) -> Iterator[Path]:
    yield from mounted("-t", "tmpfs", "-o", "size=16m", "tmpfs", place=tmp_path / "disk")


def test_a_full_disk_refuses_writes_and_goes_on_answering(
    small_disk: Path, own_index: Path, start: Callable[..., Any]
) -> None:
    index_dir = Path(shutil.copytree(own_index, small_disk / "i"))
    server = start("--index-dir", index_dir, "--allow-writes")
    before = server.client.post("/search", {"query": QUERY})
    filler = small_disk / "filler"
    for room in (0, 4096, 60_000):
        stats = os.statvfs(small_disk)
        with filler.open("wb") as target:
            os.posix_fallocate(target.fileno(), 0, stats.f_bavail * stats.f_frsize - room)
        writes = [("POST", batch(0)), ("DELETE", {"ids": ["p00"]})]
        for method, body in writes if not room else writes[:1]:  # a deletion needs little
            answer = server.client.ask(method, "/passages", body)
            assert answer.status == 503, (room, answer)
            assert set(answer.body) == ERROR
            assert "as when its disk is full" in answer.body["message"]
            assert str(index_dir) not in answer.body["message"]
            found = server.client.post("/search", {"query": QUERY})
            assert (found["results"], found["index"]) == (before["results"], before["index"])
        filler.unlink()
    assert server.client.get("/ready") == {"status": "ready"}
    assert server.client.post("/passages", batch(0))["added"] == SIZE
    assert list(verify_index(index_dir)) == []
    assert server.stop() == 0
    failed = [line for line in server.lines if "status=503" in line]
    assert failed
    assert all("ake room on the disk" in line for line in failed)


@pytest.mark.slow
def test_a_body_that_is_cut_off_and_a_client_that_is_slow(
    own_index: Path, start: Callable[..., Any]
) -> None:
    """The first changes nothing, the second is told so, and nobody else waits for either."""
    server = start("--index-dir", own_index, "--allow-writes", "--deadline", "3")
    digest = server.client.get("/info")["index"]["digest"]
    body = json.dumps(batch(0)).encode()
    head = f"POST /passages HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    slow = [socket.create_connection(server.client.address) for _ in range(20)]
    for each in slow:
        each.sendall(head + body[:1])
    for end in (len(head) - 4, len(head), len(head) + 20, len(head + body) - 1):
        with socket.create_connection(server.client.address) as cut:
            cut.sendall((head + body)[:end])
    for _ in range(5):
        assert server.client.post("/search", {"query": QUERY, "top_k": 1})["results"]
    for each in slow:
        answer = b""
        while part := each.recv(65536):
            answer += part
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert set(json.loads(answer.partition(b"\r\n\r\n")[2])) == ERROR
        each.close()
    assert server.client.get("/info")["index"]["digest"] == digest
    assert server.stop() == 0
    assert not [line for line in server.lines if "status=5" in line or "Traceback" in line]


def test_what_is_no_http_gets_the_body_of_all_errors(client: Any) -> None:
    for sent in (b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n", b"GET  \r\n\r\n"):
        with socket.create_connection(client.address) as broken:
            broken.sendall(sent + b"\r\n\r\n")
            answer = b""
            while part := broken.recv(65536):
                answer += part
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"content-type: application/json" in head
        assert set(json.loads(body)) == ERROR
        assert json.loads(body)["error"]["code"] == "invalid_http"


def test_an_index_of_another_model_is_not_served_and_said(
    own_index: Path, other_model_dir: Path, passages: list[Passage], start: Callable[..., Any]
) -> None:
    server = start("--index-dir", own_index, "--allow-writes")
    before = server.client.post("/search", {"query": QUERY})
    other = own_index.with_name("other.index")
    build_index(passages[:5], other, DualEncoder.load(other_model_dir))
    shutil.move(own_index, own_index.with_name("old.index"))
    shutil.move(other, own_index)
    after = server.client.post("/search", {"query": QUERY})
    assert (after["results"], after["index"]) == (before["results"], before["index"])
    answer = server.client.ask("GET", "/ready")
    assert answer.status == 503
    assert "was built by another model: start the server again" in answer.body["message"]
    refused = server.client.ask("POST", "/passages", batch(0))
    assert refused.status == 503
    assert "was built by another model" in refused.body["message"]
    assert list(verify_index(own_index)) == []
    server.stop()
    (said,) = (line for line in server.lines if "level=warning" in line)
    assert "was built by the model" in said


@pytest.mark.slow
def test_a_writer_beside_the_server_disturbs_no_answer(
    own_index: Path, exported: DualEncoder, start: Callable[..., Any]
) -> None:
    """Each answer is of one state: a batch is found whole, or not at all."""
    server = start("--index-dir", own_index, "--queue", "64")
    ended = threading.Event()
    wrong: list[Any] = []
    asked = [0]

    def ask() -> None:
        while not ended.is_set():
            body = {"query": QUERY, "top_k": 0, "candidates": 1000}
            answer = server.client.ask("POST", "/search", body)
            asked[0] += 1
            if answer.status != 200:
                wrong.append(answer)
                continue
            numbers = [each["metadata"].get("batch") for each in answer.body["results"]]
            counts = {numbers.count(each) for each in set(numbers) - {None}}
            if counts - {SIZE} or len(numbers) != answer.body["index"]["passages"]:
                wrong.append(numbers)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(40):
        new = [Passage(e["id"], e["text"], metadata={"batch": number}) for e in batch(number)]
        add_passages(new, own_index, exported, update=False, resume=False)
        if number % 3 == 2:
            with IndexWriter(own_index) as writer:
                writer.delete([each["id"] for each in batch(number - 1)])
    ended.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert asked[0] > 40
    assert server.client.get("/ready") == {"status": "ready"}
