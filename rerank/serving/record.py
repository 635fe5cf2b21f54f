"""What is written down about one request, for its log line and for the metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from starlette.requests import Request

LOG = logging.getLogger("dipair_index.serve")
STEPS = ("queued", "encode", "retrieve", "gather", "score")
"""The parts of a request's time."""
_KEY = "dipair.record"


@dataclass
class RequestRecord:
    """The times, in seconds, and the counts of one request; none of its texts."""

    id: str = field(default_factory=lambda: uuid4().hex)
    began: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)
    documents: int = 0
    from_index: int = 0
    from_cache: int = 0
    truncated: int = 0
    failure: Exception | None = None

    @property
    def hits(self) -> int:
        """The documents that did not have to be encoded."""
        return self.from_index + self.from_cache

    def add(self, step: str, seconds: float) -> None:
        """Adds to the time of a step."""
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Adds the duration of a block to a step."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    def attach(self, scope: MutableMapping[str, Any]) -> None:
        """Makes this the record of an ASGI scope."""
        scope[_KEY] = self


def record_of(request: Request) -> RequestRecord:
    """Returns the record of a request."""
    record = request.scope[_KEY]
    assert isinstance(record, RequestRecord)
    return record
