"""Processes that run a match, to be killed and starved."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dipair_index.errors import DiPairError
from dipair_index.formats.places import Place
from dipair_index.rerank.offline.match import match_indexes


def die_at(step: int) -> None:
    """Ends this process without warning before its write number `step`, counted from 0."""
    write, steps = Place.write, iter(range(10**9))

    def counted(self: Place, name: str, data: bytes) -> None:
        if next(steps) == step:
            # half of the bytes are there, under the name that they have until they are whole
            if self.folder is not None:
                (self.folder / f"{name}.{'0' * 32}.tmp").write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, name, data)

    Place.write = counted  # type: ignore[method-assign]


def run(said: Connection, step: int, settings: dict[str, Any], folders: tuple[Path, ...]) -> None:
    """Runs a match, says "started" once it has begun, and how it ended."""
    if step >= 0:
        die_at(step)
    try:
        match_indexes(*folders, report=lambda done, pairs: said.send("started"), **settings)
        said.send("")
    except DiPairError as error:
        said.send(f"{type(error).__name__}: {error}")
