"""Real servers on sockets: in threads, or as the command in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.serving.server import listen, run, url_of
from dipair_index.rerank.serving.settings import ServerSettings
from dipair_index.rerank.serving.state import Served
from dipair_index.rerank.text_cache import TextCache

TIMEOUT = 120.0


class Answer(NamedTuple):
    status: int
    body: Any  # of JSON, or text
    headers: http.client.HTTPMessage


class Client:
    """Asks a server, one connection a request."""

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url
        self.key = key
        parts = urlsplit(url)
        self.address = (parts.hostname or "", parts.port or 0)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        sent = {"Content-Type": "application/json"} if body is not None or raw is not None else {}
        if self.key:
            sent["Authorization"] = f"Bearer {self.key}"
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(*self.address, timeout=TIMEOUT)
        try:
            connection.request(method, path, data, sent | (headers or {}))
            found = connection.getresponse()
            text = found.read().decode()
        finally:
            connection.close()
        is_json = found.headers.get_content_type() == "application/json"
        return Answer(found.status, json.loads(text) if is_json else text, found.headers)

    def post(self, path: str, body: Any) -> Any:
        answer = self.ask("POST", path, body)
        assert answer.status == 200, answer
        return answer.body

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.body


@contextmanager
def serving(served: Served) -> Iterator[Client]:
    """Serves in a thread until the block ends."""
    listening = listen("127.0.0.1", 0)
    thread = threading.Thread(target=run, args=(served, listening), daemon=True)
    thread.start()
    try:
        yield Client(url_of(listening), served.settings.api_key)
    finally:
        served.stopping = True
        thread.join(TIMEOUT)
        assert not thread.is_alive()


Serve = Callable[..., Any]


@pytest.fixture
def serve(index_dir: Path, encoder: DualEncoder) -> Serve:
    """Serves the index of 24 passages; takes the settings of `ServerSettings`."""

    @contextmanager
    def of(
        *, path: Path | None = None, model: Any = None, cache: TextCache | None = None,
        **settings: Any,
    ) -> Iterator[tuple[Client, Served]]:  # fmt: skip
        cache = TextCache() if cache is None else cache
        chosen = ServerSettings(**{"grace": 0.0, **settings})
        index = DiPairIndex.open(path or index_dir, model or encoder, cache=cache)
        served = Served.of_index(index, cache, chosen)
        with serving(served) as client:
            yield client, served

    return of


@pytest.fixture
def serve_model() -> Serve:
    """Serves a model without an index."""

    def of(encoder: DualEncoder) -> Any:
        return serving(Served.of_model(encoder, TextCache(), ServerSettings(grace=0.0)))

    return of


@pytest.fixture(scope="module")
def client(index_dir: Path, encoder: DualEncoder) -> Iterator[Client]:
    """A server of the index of 24 passages, for questions that change nothing."""
    cache = TextCache()
    served = Served.of_index(
        DiPairIndex.open(index_dir, encoder, cache=cache), cache, ServerSettings(grace=0.0)
    )
    with serving(served) as asked:
        yield asked


class Process:
    """`dipair-index serve` in a process of its own."""

    def __init__(self, *arguments: str | Path, env: dict[str, str] | None = None) -> None:
        command = [
            sys.executable,
            "-m",
            "dipair_index",
            "serve",
            "--port",
            "0",
            *map(str, arguments),
        ]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
        )
        self.lines: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r" at (http://\S+)$", line):
                self.client = Client(found[1], (env or {}).get("DIPAIR_API_KEY", ""))
                break
        else:
            raise AssertionError("".join(self.lines))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines += self.process.stderr

    def stop(self, sent: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal; returns the exit code."""
        self.process.send_signal(sent)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        return code


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Starts servers, and ends those that a test has left."""
    started: list[Process] = []

    def begin(*arguments: str | Path, env: dict[str, str] | None = None) -> Process:
        started.append(Process(*arguments, env=env))
        return started[-1]

    yield begin
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.wait()
