"""The command itself: what it starts with, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dipair_index.cli import cli
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.records import Passage
from dipair_index.rerank.build import add_passages, build_index
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.serving.server import listen

QUERY = "how the bees dance in winter"


@pytest.fixture
def own_index(tmp_path: Path, exported: DualEncoder, passages: list[Passage]) -> Path:
    """An index that a test may change, of a model that needs no torch."""
    folder = tmp_path / "own.index"
    build_index(passages, folder, exported)
    return folder


def test_it_serves_an_index_until_sigterm_and_ends_well(
    own_index: Path, start: Callable[..., Any]
) -> None:
    server = start("--index-dir", own_index, "--log-json", env={"DIPAIR_API_KEY": "k"})
    with DiPairIndex.open(own_index) as index:
        best = index.search(QUERY, 1)[0]
    found = server.client.post("/search", {"query": QUERY, "top_k": 1})["results"]
    assert [(each["id"], each["score"]) for each in found] == [
        (best.id, pytest.approx(best.score, abs=1e-6))
    ]
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.lines if line.startswith("{")]
    assert [(line["route"], line["status"]) for line in lines] == [("/search", 200)]
    assert "bees" not in "".join(server.lines)
    assert "Traceback" not in "".join(server.lines)


def test_it_finishes_what_has_begun_and_is_not_ready_meanwhile(
    own_index: Path, start: Callable[..., Any]
) -> None:
    """A body of which a part is sent before the signal, and the rest after it."""
    server = start("--index-dir", own_index, "--grace", "60")
    body = json.dumps({"query": QUERY, "documents": ["bees", "tea"]}).encode()
    head = (
        "POST /v2/rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection(server.client.address) as begun:
        begun.sendall(head + body[:5])
        server.client.get("/health")  # answered after the head was read
        server.process.send_signal(signal.SIGTERM)
        while (ready := server.client.ask("GET", "/ready")).status == 200:
            pass  # the signal is on its way
        assert (ready.status, ready.body["error"]["code"]) == (503, "stopping")
        begun.sendall(body[5:])
        answer = b""
        while part := begun.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert [r["index"] for r in json.loads(answer.partition(b"\r\n\r\n")[2])["results"]]
    assert server.wait() == 0


def test_it_ends_when_the_grace_is_over(own_index: Path, start: Callable[..., Any]) -> None:
    server = start("--index-dir", own_index, "--grace", "0.1")
    with socket.create_connection(server.client.address) as stuck:
        stuck.sendall(b"POST /v2/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        server.client.get("/health")
        assert server.stop(signal.SIGINT) == 0


def test_a_model_is_served_without_an_index(exported: DualEncoder, start: Any) -> None:
    card = Path(exported.name) / "README.md"
    card.write_text("---\nlicense: mit\n---\n# A model\n")
    server = start("--model", exported.name)
    assert server.client.get("/info")["model_licence"] == {"name": "mit", "link": None}
    answer = server.client.post("/v2/rerank", {"query": QUERY, "documents": ["tea", "bees"]})
    assert len(answer["results"]) == 2
    for path, body in (
        ("/search", {"query": QUERY}),
        ("/v2/rerank", {"query": QUERY, "ids": ["p00"]}),
    ):
        refused = server.client.ask("POST", path, body)
        assert (refused.status, refused.body["error"]["code"]) == (404, "no_index")
    assert server.client.get("/info")["index"] is None


def test_changes_by_others_are_seen_by_the_next_request(
    own_index: Path, exported: DualEncoder, passages: list[Passage], start: Any
) -> None:
    """A writer beside the server, and then another index in the place of this one."""
    server = start("--index-dir", own_index)
    digest = server.client.post("/search", {"query": QUERY})["index"]["digest"]
    text = "a volcano of green tea"
    add_passages([Passage("new", text)], own_index, exported, update=False, resume=False)
    found = server.client.post("/search", {"query": QUERY, "top_k": 0})
    assert found["index"]["passages"] == len(passages) + 1
    assert found["index"]["digest"] != digest
    answer = server.client.ask("POST", "/v2/rerank", {"query": QUERY, "documents": [text]})
    assert answer.headers["X-DiPair-Cache"] == "1/1"

    other = own_index.with_name("other.index")
    build_index([Passage("only", "the moon and the tide")], other, exported)
    shutil.move(own_index, own_index.with_name("old.index"))
    shutil.move(other, own_index)
    found = server.client.post("/search", {"query": QUERY})
    assert [each["id"] for each in found["results"]] == ["only"]


def test_an_index_that_disappears_is_answered_from_memory_and_not_ready(
    own_index: Path, start: Any
) -> None:
    server = start("--index-dir", own_index)
    before = server.client.post("/search", {"query": QUERY})["results"]
    shutil.move(own_index, own_index.with_name("away"))
    assert server.client.post("/search", {"query": QUERY})["results"] == before
    answer = server.client.ask("GET", "/ready")
    assert (answer.status, answer.body["error"]["code"]) == (503, "index_stale")
    assert str(own_index) not in str(answer.body)
    shutil.move(own_index.with_name("away"), own_index)
    server.client.post("/search", {"query": QUERY})
    assert server.client.get("/ready") == {"status": "ready"}


def test_connections_send_what_is_written_at_once() -> None:
    """Else the body of an answer would wait for the acknowledgement of its head."""
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_clients_that_ask_at_once_get_their_own_answers(own_index: Path, start: Any) -> None:
    server = start("--index-dir", own_index, "--queue", "64")
    queries = [f"{word} in the {other}" for word in ("bees", "tea", "moon", "ice")
               for other in ("winter", "river")]  # fmt: skip
    with DiPairIndex.open(own_index) as index:
        expected = {query: [(r.id, r.score) for r in index.search(query, 3)] for query in queries}
    found: dict[str, list[Any]] = {query: [] for query in queries}

    def ask(query: str) -> None:
        for _ in range(5):
            found[query].append(server.client.post("/search", {"query": query, "top_k": 3}))

    threads = [threading.Thread(target=ask, args=(query,)) for query in queries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for query, answers in found.items():
        assert len(answers) == 5
        for answer in answers:
            got = [(each["id"], each["score"]) for each in answer["results"]]
            assert [id for id, _ in got] == [id for id, _ in expected[query]]
            assert [score for _, score in got] == pytest.approx(
                [score for _, score in expected[query]], abs=1e-5
            )


REFUSED: list[tuple[list[str], dict[str, str], str]] = [
    (["--host", "0.0.0.0"], {}, "--host 0.0.0.0 is reached from other machines, so a key is"),
    ([], {"DIPAIR_API_KEY": " "}, "the variable DIPAIR_API_KEY holds no key"),
    (["--api-key-file", os.devnull], {}, f"the file {os.devnull} holds no key"),
    (["--host", "no.such.host.invalid", "--no-auth"], {}, "the server cannot listen at no.such"),
    (["--max-body", "8 apples"], {}, "'8 apples' is not a size such as 512KiB"),
    (["--deadline", "0"], {}, "--deadline"),
]


@pytest.mark.parametrize(("arguments", "env", "said"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_served_is_refused_in_a_sentence(
    arguments: list[str], env: dict[str, str], said: str, tmp_path: Path
) -> None:
    command = ["serve", "--index-dir", str(tmp_path / "none"), *arguments]
    result = CliRunner().invoke(cli, command, env=env)
    assert result.exit_code in (1, 2)
    assert said in " ".join(result.output.split())


def test_a_port_that_is_taken_and_an_index_that_is_not_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(cli, ["serve", "--port", port])
        assert (result.exit_code, f"port {port}" in result.output) == (1, True)
    missing = ["serve", "--port", "0", "--index-dir", str(tmp_path / "none")]
    result = CliRunner().invoke(cli, missing)
    assert (result.exit_code, "there is no index at" in result.output) == (1, True)
