"""`ModelSlot`: the one thread that computes, and who may use it next.

A request is a generator. It computes up to a `yield`, which says what kind of work follows, and is
then continued when its turn comes. So requests that need little overtake long ones, and a request
whose client has gone or whose deadline has passed ends at its next turn, mostly before its first.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Awaitable, Generator
from contextlib import suppress
from enum import IntEnum
from typing import Any, Generic, TypeAlias, TypeVar

from dipair_index.rerank.serving.errors import RETRY_AFTER, ApiError, ClientGone, stopping
from dipair_index.rerank.serving.record import RequestRecord

T = TypeVar("T")
_JOIN_SECONDS = 5.0


class Lane(IntEnum):
    """What a request's next step is; the first lane goes first."""

    FAST = 0  # nothing has to be encoded but a query
    ENCODING = 1
    LARGE = 2  # many texts have to be encoded


_OLDEST_EVERY = 4
"""Of so many steps, one belongs to the oldest request, so that no lane starves another."""

Steps: TypeAlias = Generator[Lane, None, T]
"""A computation in steps, each of which ends with the lane of the next."""


class _Job(Generic[T]):
    """A request in the slot."""

    def __init__(self, steps: Steps[T], deadline: float, record: RequestRecord) -> None:
        self.steps = steps
        self.deadline = deadline
        self.record = record
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[T] = self.loop.create_future()
        self.ready_since = time.monotonic()
        self.left = False  # answered, or given up

    def advance(self) -> Lane | None:
        """Computes one step; returns the lane of the next, or None if the job has ended."""
        now = time.monotonic()
        self.record.add("queued", now - self.ready_since)
        if self.left or now >= self.deadline:
            self.steps.close()
            return None
        try:
            lane = next(self.steps)
        except StopIteration as end:
            self._settle(end.value, None)
            return None
        except Exception as error:
            self._settle(None, error)
            return None
        self.ready_since = time.monotonic()
        return lane

    def fail(self, error: Exception) -> None:
        """Ends the job with an error; only for a job that is not being advanced."""
        self.steps.close()
        self._settle(None, error)

    def _settle(self, value: Any, error: Exception | None) -> None:
        def settle() -> None:
            if self.answer.done():
                return
            if error is None:
                self.answer.set_result(value)
            else:
                self.answer.set_exception(error)

        with suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self.loop.call_soon_threadsafe(settle)


class ModelSlot:
    """Computes requests one step at a time in one thread, at most `waiting` besides the current.

    Within a lane they go in the order of their arrival.
    """

    def __init__(self, waiting: int) -> None:
        self._most = waiting + 1
        self._lanes: dict[Lane, list[tuple[int, _Job[Any]]]] = {lane: [] for lane in Lane}
        self._arrivals, self._turns = itertools.count(), itertools.count(1)
        self._condition = threading.Condition()
        self._jobs = 0  # counted in the event loop alone
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="model slot", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """How many requests wait or are computed."""
        return self._jobs

    def refuse_if_full(self) -> None:
        """Raises the error of a full queue, or of a server that stops."""
        if self._closed:
            raise stopping()
        if self._jobs >= self._most:
            raise ApiError(
                429,
                f"{self._most - 1} requests wait already: ask again in a moment, or start the "
                "server with a longer --queue",
                code="queue_full",
                headers=RETRY_AFTER,
            )

    async def run(
        self, steps: Steps[T], *, deadline: float, record: RequestRecord, gone: Awaitable[Any]
    ) -> T:
        """Returns what the steps return, as soon as their turns have come.

        `deadline` is a time of `time.monotonic`; `gone` ends when the client has gone. Raises
        `ApiError` (429 if too many wait, 504 past the deadline) or `ClientGone`.
        """
        self.refuse_if_full()
        job = _Job(steps, deadline, record)
        self._jobs += 1
        self._put(Lane.FAST, next(self._arrivals), job)
        leaving = asyncio.ensure_future(gone)
        try:
            await asyncio.wait(
                (job.answer, leaving),
                timeout=max(0.0, deadline - time.monotonic()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if job.answer.done():
                return job.answer.result()
            if leaving.done():
                raise ClientGone
            raise ApiError(
                504, "the deadline has passed: send fewer or shorter texts, or ask when the "
                "server is less busy", code="deadline",
            )  # fmt: skip
        finally:
            leaving.cancel()
            self._leave(job)

    def close(self) -> None:
        """Ends all requests that have not been answered, and the thread after its current step."""
        with self._condition:
            self._closed = True
            left = [job for lane in self._lanes.values() for _, job in lane]
            for lane in self._lanes.values():
                lane.clear()
            self._condition.notify()
        for job in left:
            job.fail(stopping())
        self._thread.join(_JOIN_SECONDS)

    def _leave(self, job: _Job[Any]) -> None:
        """Frees the job's place; what it still has to do is dropped at its next turn."""
        job.answer.cancel()
        job.left = True
        self._jobs -= 1

    def _put(self, lane: Lane, arrival: int, job: _Job[Any]) -> None:
        with self._condition:
            heapq.heappush(self._lanes[lane], (arrival, job))
            self._condition.notify()

    def _next(self) -> tuple[int, _Job[Any]] | None:
        """Waits for the next job; None if the slot was closed."""
        with self._condition:
            while not any(self._lanes.values()):
                if self._closed:
                    return None
                self._condition.wait()
            waiting = [lane for lane in Lane if self._lanes[lane]]
            lane = waiting[0]
            if not next(self._turns) % _OLDEST_EVERY:
                lane = min(waiting, key=lambda each: self._lanes[each][0][0])
            return heapq.heappop(self._lanes[lane])

    def _work(self) -> None:
        while (found := self._next()) is not None:
            arrival, job = found
            lane = job.advance()
            if lane is not None and self._closed:
                job.fail(stopping())
            elif lane is not None:
                self._put(lane, arrival, job)
