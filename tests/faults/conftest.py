"""Real processes that end, starve and collide over real indexes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.stores import file_digests

# the processes import what they do by name, and asserts show their values
sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("fault_workers", "held_index", "soak_workers")

from fault_workers import BLOCK_BYTES, Change, Outcome, Worker, perform, server  # noqa: E402


@pytest.fixture(scope="session")
def workers(tiny_model_dir: Path) -> Any:
    """The context that `Worker` starts processes in."""
    return server(tiny_model_dir)


@pytest.fixture(scope="module", autouse=True)
def _blocks_as_in_the_workers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as its:
        its.setattr(file_digests, "BLOCK_BYTES", BLOCK_BYTES)
        yield


@pytest.fixture(scope="session")
def encoder(tiny_model_dir: Path) -> DualEncoder:
    return DualEncoder.load(tiny_model_dir)


@pytest.fixture(scope="session")
def done(workers: Any) -> Callable[..., Outcome]:
    """Makes changes one after another, each in a process of its own that nobody disturbs."""

    def make(index_dir: Path, *changes: Change, resume: bool = False) -> Outcome:
        for change in changes:
            outcome = Worker(workers, perform, change, index_dir, resume).end()
            assert (outcome.complaint, outcome.exit_code) == ("", 0)
        return outcome

    return make
