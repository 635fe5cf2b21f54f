"""Locks that are free in a forked child, even if a thread held them at the fork.

`ForkSafeLock` is such a lock; `COMPUTING` lets a fork wait for libraries with locks of their own.
"""

from __future__ import annotations

import os
from threading import Condition, Lock
from typing import ClassVar
from weakref import WeakSet


class ForkSafeLock:
    """A lock that is free in a forked child, whose only thread is the one that forked.

    With another lock, the child would wait for ever for a thread that exists only in its parent. It
    must guard only data that are usable even if the thread that held it stopped half-way. It is a
    context manager.
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


class ForkGate:
    """Lets a fork wait until no thread is inside, and threads wait until the fork is done.

    Libraries in C++ hold locks of their own while they compute (torch's cache of products, ONNX
    Runtime's arena). If a thread is computing at a fork, the child inherits such a lock held for
    ever. So each call into such a library is made inside: it must be short, and must neither fork
    nor enter the gate again. It is a context manager.
    """

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(
            before=self._wait_for_all, after_in_parent=self._reopen, after_in_child=self._reset
        )

    def __enter__(self) -> None:
        with self._condition:
            while self._forking:
                self._condition.wait()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._condition:
            self._inside -= 1
            self._condition.notify_all()

    def _wait_for_all(self) -> None:
        # the lock stays held until the fork is done, so that nobody leaves or enters meanwhile
        self._condition.acquire()
        self._forking = True
        while self._inside:
            self._condition.wait()

    def _reopen(self) -> None:
        self._forking = False
        self._condition.notify_all()
        self._condition.release()

    def _reset(self) -> None:
        self._condition = Condition(Lock())
        self._inside, self._forking = 0, False


COMPUTING = ForkGate()
"""Entered by every call that computes with torch or ONNX Runtime for an answer."""
