"""How many threads a process may start, whatever its environment asks for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dipair_index.threads import most_threads, thread_count


def test_the_environment_cannot_ask_for_more_threads_than_a_machine_can_bear() -> None:
    """Libraries start as many as they are told when they are imported: 100,000 hang a machine."""
    program = (
        "import os, dipair_index.threads as threads; "
        "print(*(os.environ[name] for name in threads.VARIABLES), threads.thread_count())"
    )
    asked = {"OMP_NUM_THREADS": "100000", "OPENBLAS_NUM_THREADS": "3", "RAYON_NUM_THREADS": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    most = str(most_threads())
    assert done.stdout.split() == [most, "3", most, most]


@pytest.mark.parametrize(("asked", "count"), [("3", 3), ("1", 1), ("99999999999", most_threads())])
def test_as_many_threads_as_the_variable_says(
    monkeypatch: pytest.MonkeyPatch, asked: str, count: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert thread_count() == count


@pytest.mark.parametrize("asked", ["", "0", "-1", "many", "²"])
def test_what_is_no_number_of_threads_asks_for_the_cores(
    monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert 1 <= thread_count() <= (os.cpu_count() or 1)
