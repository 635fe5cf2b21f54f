"""Runs the application until a signal, and lets what has begun end well."""

from __future__ import annotations

import logging
import socket
import sys
import time
from ipaddress import ip_address
from types import FrameType

import uvicorn

from dipair_index.errors import SettingsError
from dipair_index.rerank.serving.app import create_app
from dipair_index.rerank.serving.http import Protocol
from dipair_index.rerank.serving.observing import LineFormatter
from dipair_index.rerank.serving.record import LOG
from dipair_index.rerank.serving.state import Served

_BACKLOG = 2048
_SWITCH_SECONDS = 0.0005


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens at an address; port 0 is any that is free.

    Raises `SettingsError` if it cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"the server cannot listen at {host}, port {port} ({error.strerror or error}): choose "
            "another --port or --host"
        ) from error
    # which its connections inherit; asyncio sets it only for sockets that name TCP themselves, and
    # without it the body of an answer waits up to 40 ms until its head was acknowledged
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches a host; a name counts by all its addresses."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ip_address(str(each[4][0]).split("%")[0]).is_loopback for each in found)


def url_of(listening: socket.socket) -> str:
    """Returns the base URL of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(served: Served, listening: socket.socket, *, log_json: bool = False) -> None:
    """Serves until SIGTERM or SIGINT, and returns when what had begun has ended.

    A second signal ends at once.
    """
    _prepare_log(log_json)
    # the event loop asks for the interpreter several times a request, and waits so long each time
    # that a thread computes in Python
    sys.setswitchinterval(_SWITCH_SECONDS)
    config = uvicorn.Config(
        create_app(served),
        http=Protocol,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        # the grace has passed by then; what is left has been answered with 503
        timeout_graceful_shutdown=1,
    )
    try:
        _Server(config, served).run(sockets=[listening])
    finally:
        served.close()


class _Server(uvicorn.Server):
    """Goes on listening after a signal, so as to say that it is not ready, until all have ended."""

    def __init__(self, config: uvicorn.Config, served: Served) -> None:
        super().__init__(config)
        self._served = served
        self._latest_end: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Takes a signal: the first begins the end, the second is the end."""
        if self._served.stopping:
            self.should_exit = self.force_exit = True
        self._served.stopping = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; returns whether to end."""
        if self._served.stopping and not self.should_exit:
            now = time.monotonic()
            self._latest_end = self._latest_end or now + self._served.settings.grace
            late = now >= self._latest_end
            if late:
                self._served.slot.close()
            self.should_exit = late or not self._served.in_flight
        return await super().on_tick(counter)


def _prepare_log(as_json: bool) -> None:
    # a log that cannot be written, as on a full disk, must not fail a request
    logging.raiseExceptions = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(as_json=as_json))
    for logger, level in ((LOG, logging.INFO), (logging.getLogger("uvicorn"), logging.WARNING)):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
