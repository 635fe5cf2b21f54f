"""What is seen from outside: one log line and the metrics of each request."""

from __future__ import annotations

import json
import logging
import time
import traceback
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dipair_index.errors import DiPairError
from dipair_index.rerank.serving.errors import as_api_error, error_response
from dipair_index.rerank.serving.record import LOG, STEPS, RequestRecord
from dipair_index.rerank.serving.state import Served

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_NO_ROUTE = "none"
"""The route of requests for paths that do not exist, whose number is not bounded."""


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, served: Served) -> None:
        self.registry = CollectorRegistry()
        self._served = served
        self._requests = Counter(
            "dipair_requests", "Requests", ["route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "dipair_step_seconds", "Seconds that requests spent in a step", ["step"],
            buckets=_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self._texts = Counter(
            "dipair_texts", "Texts and passages that were scored, by where they came from",
            ["source"], registry=self.registry,
        )  # fmt: skip
        self._truncated = Counter(
            "dipair_truncated_texts", "Texts longer than the model reads", registry=self.registry
        )
        for name, said, value in (
            ("dipair_queue_requests", "Requests that wait or are computed", self._queued),
            ("dipair_cache_bytes", "Memory of the cached texts", self._cache_bytes),
            ("dipair_index_passages", "Passages of the index", self._passages),
            ("dipair_index_stale", "1 if the index on disk cannot be served", self._stale),
        ):
            Gauge(name, said, registry=self.registry).set_function(value)
        self._info = Info("dipair_index", "The index and its model", registry=self.registry)
        for step in STEPS:
            self._seconds.labels(step)
        for source in ("index", "cache", "encoded"):
            self._texts.labels(source)

    def count(self, route: str, status: int, record: RequestRecord) -> None:
        """Counts a request that has ended."""
        self._requests.labels(route, str(status)).inc()
        for step, seconds in record.seconds.items():
            self._seconds.labels(step).observe(seconds)
        if record.documents:
            self._texts.labels("index").inc(record.from_index)
            self._texts.labels("cache").inc(record.from_cache)
            self._texts.labels("encoded").inc(record.documents - record.hits)
        self._truncated.inc(record.truncated)

    def update(self) -> None:
        """Sets what describes the index; called before the metrics are read."""
        index = self._served.index
        self._info.info({
            "digest": index.manifest.digest if index else "",
            "model": self._served.settings.model_name,
            "fingerprint": self._served.encoder.fingerprint,
        })  # fmt: skip

    def _queued(self) -> float:
        return len(self._served.slot)

    def _cache_bytes(self) -> float:
        return self._served.cache.stored_bytes

    def _passages(self) -> float:
        return len(self._served.index) if self._served.index else 0

    def _stale(self) -> float:
        return bool(self._served.stale)


class Observer:
    """ASGI middleware that gives each request a record, and writes down what became of it."""

    def __init__(self, app: ASGIApp, served: Served, metrics: Metrics) -> None:
        self._app = app
        self._served = served
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and counts and logs it when it has ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord()
        record.attach(scope)
        # paths are taken with it and without, whichever a proxy sends
        scope["root_path"] = self._served.settings.root_path
        status, started = 500, False

        async def observed(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message["headers"].append((b"x-request-id", record.id.encode()))
            await send(message)

        self._served.in_flight += 1
        try:
            await self._app(scope, receive, observed)
        except Exception as error:
            record.failure = error
            if started:
                raise
            await error_response(as_api_error(error), record.id)(scope, receive, observed)
        finally:
            self._served.in_flight -= 1
            route = getattr(scope.get("route"), "path", _NO_ROUTE)
            self._metrics.count(route, status, record)
            _log(scope, route, status, record)


def _log(scope: Scope, route: str, status: int, record: RequestRecord) -> None:
    """Writes one line: no text, no key, no id of a passage."""
    line: dict[str, Any] = {
        "request_id": record.id,
        "client": (scope.get("client") or ("",))[0],
        "method": scope["method"],
        "route": route,
        "status": status,
        "seconds": round(time.monotonic() - record.began, 6),
        **{step: round(seconds, 6) for step, seconds in record.seconds.items()},
    }
    if record.documents:
        line |= {"documents": record.documents, "cached": record.hits}
    if record.failure is not None:
        line["error"] = _cause(record.failure)
    LOG.log(logging.ERROR if status >= 500 else logging.INFO, "request", extra={"line": line})


def _cause(error: Exception) -> str:
    """Returns the type of an exception and where it was raised.

    The messages of the library are about files; those of others may hold texts.
    """
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    said = f": {error}" if isinstance(error, DiPairError) else ""
    return f"{type(error).__name__}{where}{said}"


class LineFormatter(logging.Formatter):
    """Formats records as lines of JSON, or as words."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line of a log record."""
        line = {"time": self.formatTime(record), "level": record.levelname.lower()}
        line |= getattr(record, "line", None) or {"message": record.getMessage()}
        if self._as_json:
            return json.dumps(line, ensure_ascii=True)
        return " ".join(f"{name}={value}" for name, value in line.items())
