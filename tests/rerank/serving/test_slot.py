"""Whose turn it is: lanes, the queue, deadlines and clients that have gone. No models."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dipair_index.rerank.serving.errors import ApiError, ClientGone
from dipair_index.rerank.serving.record import RequestRecord
from dipair_index.rerank.serving.slot import Lane, ModelSlot, Steps

PATIENCE = 60.0


class Turns:
    """Writes down whose steps were computed, behind a gate that the test opens."""

    def __init__(self, waiting: int = 64) -> None:
        self.slot = ModelSlot(waiting)
        self.gate = threading.Event()
        self.inside = threading.Event()
        self.done: list[str] = []

    def blocker(self) -> Steps[str]:
        self.inside.set()
        assert self.gate.wait(PATIENCE)
        return "blocker"
        yield

    def steps(self, name: str, *lanes: Lane) -> Steps[str]:
        """Asks for a lane after another, and is written down once it is in each."""
        for number, lane in enumerate(lanes):
            yield lane
            self.done.append(f"{name}{number}")
        return name

    def ask(
        self, steps: Steps[str], patience: float = PATIENCE, gone: Any = None
    ) -> asyncio.Task[str]:
        return asyncio.create_task(
            self.slot.run(
                steps,
                deadline=time.monotonic() + patience,
                record=RequestRecord(),
                gone=gone or asyncio.get_running_loop().create_future(),
            )
        )

    async def block(self) -> asyncio.Task[str]:
        """Occupies the slot until the gate is opened."""
        task = self.ask(self.blocker())
        await asyncio.get_running_loop().run_in_executor(None, self.inside.wait, PATIENCE)
        return task


@pytest.fixture
def turns() -> Iterator[Turns]:
    made = Turns()
    yield made
    made.gate.set()
    made.slot.close()


async def settled() -> None:
    """Lets tasks that were begun reach the slot."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_lane_is_first_come_first_served(turns: Turns) -> None:
    async def main() -> list[str]:
        blocker = await turns.block()
        asked = [turns.ask(turns.steps(name, Lane.ENCODING, Lane.ENCODING)) for name in "abc"]
        await settled()
        turns.gate.set()
        return await asyncio.gather(blocker, *asked)

    assert asyncio.run(main()) == ["blocker", "a", "b", "c"]
    assert turns.done == ["a0", "a1", "b0", "b1", "c0", "c1"]


def test_what_needs_no_encoding_overtakes_and_large_requests_yield(turns: Turns) -> None:
    async def main() -> None:
        blocker = await turns.block()
        large = turns.ask(turns.steps("large", *[Lane.LARGE] * 6))
        small = turns.ask(turns.steps("small", *[Lane.ENCODING] * 3))
        fast = turns.ask(turns.steps("fast", Lane.FAST))
        await settled()
        turns.gate.set()
        await asyncio.gather(blocker, large, small, fast)

    asyncio.run(main())
    place = {name: at for at, name in enumerate(turns.done)}
    assert place["fast0"] < place["small2"] < place["large5"]
    assert place["small0"] < place["large1"]
    # but the oldest is not starved: it had a turn before the others were through
    assert place["large0"] < place["small2"]


def test_a_full_queue_refuses_at_once(turns: Turns) -> None:
    full = Turns(waiting=1)

    async def main() -> None:
        blocker = await full.block()
        waiting = full.ask(full.steps("a", Lane.FAST))
        await settled()
        with pytest.raises(ApiError, match="1 requests wait already") as refused:
            await full.ask(full.steps("b", Lane.FAST))
        assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")
        full.gate.set()
        assert await asyncio.gather(blocker, waiting) == ["blocker", "a"]
        assert await full.ask(full.steps("c", Lane.FAST)) == "c"

    asyncio.run(main())
    full.slot.close()
    assert full.done == ["a0", "c0"]


def test_a_request_whose_client_has_gone_is_not_computed(turns: Turns) -> None:
    async def main() -> None:
        blocker = await turns.block()
        gone = asyncio.get_running_loop().create_future()
        left = turns.ask(turns.steps("left", Lane.FAST), gone=gone)
        stays = turns.ask(turns.steps("stays", Lane.FAST))
        await settled()
        assert len(turns.slot) == 3
        gone.set_result(None)
        with pytest.raises(ClientGone):
            await left
        assert len(turns.slot) == 2  # its place is free at once
        turns.gate.set()
        await asyncio.gather(blocker, stays)

    asyncio.run(main())
    assert turns.done == ["stays0"]


def test_a_request_past_its_deadline_is_answered_and_not_computed(turns: Turns) -> None:
    async def main() -> None:
        blocker = await turns.block()
        late = turns.ask(turns.steps("late", Lane.FAST), patience=0.01)
        with pytest.raises(ApiError, match="the deadline has passed") as passed:
            await late
        assert passed.value.status == 504
        turns.gate.set()
        await blocker

    asyncio.run(main())
    assert turns.done == []


def test_an_error_ends_its_own_request_alone(turns: Turns) -> None:
    def failing() -> Steps[str]:
        yield Lane.ENCODING
        raise ValueError("of this request")

    async def main() -> list[Any]:
        asked = [turns.ask(failing()), turns.ask(turns.steps("a", Lane.ENCODING))]
        return await asyncio.gather(*asked, return_exceptions=True)

    error, other = asyncio.run(main())
    assert (repr(error), other) == ("ValueError('of this request')", "a")


def test_a_slot_that_closes_answers_those_who_wait(turns: Turns) -> None:
    async def main() -> None:
        blocker = await turns.block()
        waiting = turns.ask(turns.steps("a", Lane.FAST))
        await settled()
        closing = asyncio.get_running_loop().run_in_executor(None, turns.slot.close)
        with pytest.raises(ApiError, match="the server is stopping") as stopped:
            await waiting
        assert stopped.value.status == 503
        turns.gate.set()
        await closing
        assert await blocker == "blocker"
        with pytest.raises(ApiError, match="the server is stopping"):
            await turns.ask(turns.steps("b", Lane.FAST))

    asyncio.run(main())
    assert turns.done == []
