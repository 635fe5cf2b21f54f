"""The settings of the server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSettings:
    """What `dipair-index serve` was started with; times are in seconds, sizes in bytes.

    `api_key` is asked of every request that reads or computes; empty, no key is asked for. `queue`
    is how many requests may wait for the model. `deadline` is how long a request may take, and
    `grace` how long those that have begun may go on after SIGTERM.
    """

    model_name: str = "dipair"
    api_key: str = ""
    allow_writes: bool = False
    max_documents: int = 1000
    max_body: int = 8 * 2**20
    queue: int = 64
    deadline: float = 30.0
    grace: float = 30.0
    cors_origins: tuple[str, ...] = ()
    root_path: str = ""
