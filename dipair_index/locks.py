"""Locks that a forked child does not inherit as another thread held them."""

from __future__ import annotations

import os
from threading import Lock
from typing import ClassVar
from weakref import WeakSet


class ForkSafeLock:
    """A lock that is free in a forked child, whose only thread is the one that forked.

    A thread that held it at the fork is not there to release it: the child would wait for ever. So
    it must guard only what a thread that vanishes leaves usable. It is a context manager.
    """

    _all: ClassVar[WeakSet[ForkSafeLock]] = WeakSet()

    def __init__(self) -> None:
        self._lock = Lock()
        self._all.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    @classmethod
    def _free_all(cls) -> None:
        for each in list(cls._all):
            each._lock = Lock()


os.register_at_fork(after_in_child=ForkSafeLock._free_all)
