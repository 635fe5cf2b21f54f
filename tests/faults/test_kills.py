"""kill -9 at any moment: what was acknowledged stays, all else is wholly in or wholly out."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fault_workers import BEFORE, CHANGES, Change, Outcome, Worker, perform, some_passages
from held_index import Held, answers, assert_nothing_is_left_over, found, held

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.records import Passage
from dipair_index.stores.names import STORE_NAMES

# an interrupted one is there, and is thrown away
AGAIN = {"add again": Change("add overwrite", CHANGES["add"].passages)}
SEED = 7
KILLS = 120


class Case(NamedTuple):
    """A change, the index that it is made to, and what nobody disturbed makes of it."""

    change: Change
    start: Path | None
    before: Held
    after: Held
    steps: int
    answers: object


@pytest.fixture(scope="module")
def case_of(
    tmp_path_factory: pytest.TempPathFactory,
    workers: Any,
    done: Callable[..., Outcome],
    encoder: DualEncoder,
) -> Callable[[str], Case]:
    folder = tmp_path_factory.mktemp("cases")
    done(folder / "start", *BEFORE)
    before = held(folder / "start", encoder)
    shutil.copytree(folder / "start", folder / "interrupted")
    bad = Change("add", (*CHANGES["add"].passages[:20], Passage("", "has no id")))
    ended = Worker(workers, perform, bad, folder / "interrupted").end()
    assert ended.said[:-1] == ["started", 0, 16]

    @cache
    def make(name: str) -> Case:
        change, target, start = {**CHANGES, **AGAIN}[name], folder / name, None
        if name != "build":
            start = folder / ("interrupted" if name in AGAIN else "start")
            shutil.copytree(start, target)
        steps = done(target, change).said[-1].steps
        after = held(target, encoder)
        assert after == change.after(before if start else {})
        return Case(
            change, start, before if start else None, after, steps, answers(target, encoder)
        )

    return make


def assert_survived(
    killed: Outcome, index_dir: Path, before: Held, after: Held, encoder: DualEncoder
) -> bool:
    """Checks an index whose writer was killed; returns whether the change may be made again."""
    now = found(index_dir, encoder)
    assert now in ((after,) if killed.acknowledged else (before, after))
    return now == before


@pytest.mark.parametrize("name", [*CHANGES, *AGAIN])
def test_a_change_that_is_killed_at_some_step_can_be_made_again(
    name: str,
    case_of: Callable[[str], Case],
    workers: Any,
    done: Callable[..., Outcome],
    encoder: DualEncoder,
    tmp_path: Path,
) -> None:
    case = case_of(name)
    step = random.Random(f"{SEED} {name}").randrange(case.steps // 2, case.steps)
    kill_at_step(step, case, workers, done, encoder, tmp_path / "i")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CHANGES, *AGAIN])
def test_a_change_can_be_killed_at_each_of_its_steps(
    name: str,
    case_of: Callable[[str], Case],
    workers: Any,
    done: Callable[..., Outcome],
    encoder: DualEncoder,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    case = case_of(name)
    for step in range(1, case.steps + 1):
        kill_at_step(step, case, workers, done, encoder, tmp_path / "i")
        shutil.rmtree(tmp_path / "i")
    pytestconfig.get_terminal_writer().line(f" {name} survived {case.steps} kills")


def kill_at_step(
    step: int,
    case: Case,
    workers: Any,
    done: Callable[..., Outcome],
    encoder: DualEncoder,
    index_dir: Path,
) -> None:
    if case.start:
        shutil.copytree(case.start, index_dir)
    outcome = Worker(workers, perform, case.change, index_dir, False, step).end()
    assert outcome.killed, outcome
    if assert_survived(outcome, index_dir, case.before, case.after, encoder):
        done(index_dir, case.change, resume=True)
    assert held(index_dir, encoder) == case.after
    assert_nothing_is_left_over(index_dir)
    assert answers(index_dir, encoder) == case.answers


@pytest.mark.slow
@pytest.mark.parametrize("store", STORE_NAMES)
def test_an_index_outlives_a_hundred_kills(
    store: str,
    workers: Any,
    done: Callable[..., Outcome],
    encoder: DualEncoder,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    """Half of them come at any moment of a change, the others near its end, where it counts."""
    chance = random.Random(SEED)
    killed: Counter[str] = Counter()
    index_dir, twin = tmp_path / "killed", tmp_path / "undisturbed"
    before: Held = None
    while killed.total() < KILLS:
        change = replace(drawn(chance, before), store=store)
        undisturbed = done(twin, change)
        after = change.after(before or {})
        for resume in (False, True, True):
            moment = chance.choice((undisturbed.at_any_moment, undisturbed.near_the_end))
            worker = Worker(workers, perform, change, index_dir, resume)
            assert worker.hear() == "started"
            time.sleep(moment(chance.random()))
            outcome = worker.kill()
            killed[change.command] += outcome.killed
            if not assert_survived(outcome, index_dir, before, after, encoder):
                break
        else:
            done(index_dir, change, resume=True)
        assert found(index_dir, encoder) == after
        assert_nothing_is_left_over(index_dir)
        assert answers(index_dir, encoder) == answers(twin, encoder)
        before = after
    counts = ", ".join(f"{count} of {command}" for command, count in sorted(killed.items()))
    pytestconfig.get_terminal_writer().line(f" survived {killed.total()} kills: {counts}")


def drawn(chance: random.Random, held: Held) -> Change:
    """A change of an index that holds so much; it stays between 20 and 120 passages."""
    seed = chance.randrange(10**6)
    if held is None:
        return Change("build", some_passages(48, seed=seed))
    command = chance.choice(("add", "update", "update", "delete", "compact", "build overwrite"))
    if command == "compact":
        return Change("compact")
    if command == "delete" and len(held) > 30:
        return Change("delete", ids=tuple(chance.sample(sorted(held), chance.randint(1, 10))))
    if command == "build overwrite" or len(held) > 120:
        return Change("build overwrite", some_passages(chance.randint(30, 60), seed=seed))
    last = 1 + int(max(held)[1:])
    if command == "update":
        return Change("update", some_passages(chance.randint(1, 40), first=last - 20, seed=seed))
    return Change("add", some_passages(chance.randint(1, 40), first=last, seed=seed))
