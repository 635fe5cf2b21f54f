"""Many readers and one writer at once: the old index or the new one, never something between.

DIPAIR_SOAK_SECONDS says how long the slow one of them goes on.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from fault_workers import BEFORE, Change, Outcome, Worker, keep_writing, perform, some_passages
from held_index import assert_nothing_is_left_over, held
from soak_workers import (
    QUERIES,
    ROUNDING,
    VARIANTS,
    Expected,
    State,
    build_states,
    keep_changing,
    keep_reading,
    passages_of,
)

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import DirectoryError
from dipair_index.records import Passage
from dipair_index.rerank.build import build_index
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.verification import verify_index

SOAK_SECONDS = float(os.environ.get("DIPAIR_SOAK_SECONDS", "180"))


@pytest.fixture(scope="module")
def expected(workers: Any, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    """The right answers, which differ far more from round to round than by rounding."""
    (found,) = Worker(workers, build_states, tmp_path_factory.mktemp("states")).end().said
    for one, other in combinations(range(VARIANTS), 2):
        for passage_id in found[one, True][0]:
            differences = [
                abs(mine - its)
                for query in range(len(QUERIES))
                for mine, its in zip(
                    found[one, True][query][passage_id][1:],
                    found[other, True][query][passage_id][1:],
                    strict=True,
                )
            ]
            assert max(differences) > 50 * ROUNDING
    return found


@pytest.mark.parametrize(
    ("readers", "seconds"), [(2, 4.0), pytest.param(8, SOAK_SECONDS, marks=pytest.mark.slow)]
)
def test_readers_see_one_round_whoever_writes_and_is_killed(
    readers: int,
    seconds: float,
    workers: Any,
    expected: Expected,
    encoder: DualEncoder,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    index_dir, chance = tmp_path / "i", random.Random(5)
    build_index(passages_of(State(0, False)), index_dir, encoder, codec="float32")
    # without a lock, which a killed writer would keep
    stop, acknowledged = workers.Event(), workers.Value("q", 0, lock=False)
    reading = [
        Worker(workers, keep_reading, index_dir, expected, acknowledged, stop.is_set, seed)
        for seed in range(readers)
    ]
    kills, end = 0, time.monotonic() + seconds
    while time.monotonic() < end or not kills:
        before = acknowledged.value
        writing = Worker(workers, keep_changing, index_dir, acknowledged)
        while acknowledged.value == before:
            assert writing.process.is_alive()
            time.sleep(0.1)
        time.sleep(chance.uniform(0.0, 1.0) * min(seconds / 4, 6.0))
        kills += writing.kill().killed
    stop.set()
    did: Counter[str] = Counter()
    for reader in reading:
        outcome = reader.end()
        assert outcome.exit_code == 0
        *wrong, its = outcome.said
        assert wrong == []
        did.update(its)

    assert acknowledged.value >= kills >= 1
    assert did["answers"] > 10 * readers
    assert did["refresh to another"] >= readers
    assert list(verify_index(index_dir)) == []
    counts = ", ".join(f"{count:,} times {what}" for what, count in did.most_common())
    pytestconfig.get_terminal_writer().line(
        f" {acknowledged.value:,} rounds, {kills} writers killed, no wrong answer: {counts}"
    )


def test_a_second_writer_is_refused_by_the_name_of_the_first_and_a_dead_one_leaves_no_lock(
    workers: Any, encoder: DualEncoder, tmp_path: Path
) -> None:
    index_dir = tmp_path / "i"
    assert (
        Worker(workers, perform, Change("build", some_passages(20)), index_dir).end().acknowledged
    )
    first = Worker(workers, keep_writing, index_dir)
    assert first.hear() == "holding"
    named = (
        f"is being changed by process {first.process.pid} on .*: let it end, then run this again"
    )
    for change in (
        Change("add", some_passages(2, first=20)),
        Change("update", some_passages(2)),
        Change("delete", ids=("p0001",)),
        Change("compact"),
        Change("build overwrite", some_passages(2)),
    ):
        outcome = Worker(workers, perform, change, index_dir).end()
        assert re.search(f"DirectoryError: .*{named}", outcome.complaint)
    with pytest.raises(DirectoryError, match=named):
        IndexWriter(index_dir)
    assert first.kill().killed
    with IndexWriter(index_dir) as writer:
        assert writer.delete(["p0001"]) == 1


@pytest.mark.parametrize("rounds", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_of_many_that_build_at_once_one_does(
    rounds: int,
    workers: Any,
    done: Callable[..., Outcome],
    encoder: DualEncoder,
    tmp_path: Path,
) -> None:
    """Some of them fail, and remove the folder that they made."""
    good = Change("build", some_passages(20))
    bad = Change("build", (Passage("", "has no id"),))
    refusals = "is being changed by|there is an index at|was removed at this moment|pass --resume"
    for number in range(rounds):
        index_dir = tmp_path / f"{number}"
        at_once = [Worker(workers, perform, change, index_dir) for change in [bad, good] * 3]
        outcomes = [worker.end() for worker in at_once]
        assert sum(outcome.acknowledged for outcome in outcomes) <= 1
        for outcome in outcomes[1::2]:
            assert outcome.acknowledged or re.search(refusals, outcome.complaint)
        if not any(outcome.acknowledged for outcome in outcomes):
            done(index_dir, good)
        assert held(index_dir, encoder) == good.after({})
        assert_nothing_is_left_over(index_dir)


def test_of_many_that_add_at_once_each_is_either_done_or_refused(
    workers: Any, done: Callable[..., Outcome], encoder: DualEncoder, tmp_path: Path
) -> None:
    index_dir, right = tmp_path / "i", BEFORE[0].after({})
    done(index_dir, BEFORE[0])
    changes = [Change("add", some_passages(3, first=100 * number)) for number in range(1, 9)]
    adding = [Worker(workers, perform, change, index_dir) for change in changes]
    for change, worker in zip(changes, adding, strict=True):
        outcome = worker.end()
        if outcome.acknowledged:
            right = change.after(right)
        else:
            assert re.search("is being changed by .*process.* run this again", outcome.complaint)
    assert len(right) > 40
    assert held(index_dir, encoder) == right
