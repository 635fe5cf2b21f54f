"""Limits on the threads that libraries compute with."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
"""The variables that torch and FAISS, numpy, and the tokenizers read when they are imported.

MKL reads OMP_NUM_THREADS. MKL_NUM_THREADS would override `limit_openmp`.
"""
FEW_CORES_MOST = 64
"""Threads that are allowed on a machine of few cores."""
THREADS_PER_CORE = 4


def most_threads() -> int:
    """Returns how many threads are allowed: a machine hangs over some thousands."""
    return max(FEW_CORES_MOST, THREADS_PER_CORE * (os.cpu_count() or 1))


def _bound_variables() -> None:
    """Lowers what the environment asks for to `most_threads`: libraries start all of them."""
    for variable in VARIABLES:
        asked = os.environ.get(variable, "")
        if asked.isdecimal() and int(asked) > most_threads():
            os.environ[variable] = str(most_threads())


# before any of the libraries is imported
_bound_variables()


def limit_threads(count: int) -> None:
    """Limits the threads of all libraries that are imported afterwards."""
    for variable in VARIABLES:
        os.environ[variable] = str(count)
    os.environ.pop("MKL_NUM_THREADS", None)


def limit_openmp(count: int) -> None:
    """Limits the OpenMP threads of the calling thread, in libraries that are loaded already.

    `torch.set_num_threads` would limit all threads, and sets MKL's own number, by which MKL splits
    even the products of threads that should compute alone: a fifth slower at two threads.
    """
    _openmp().limit(limits=count)


@cache
def _openmp() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="openmp")


@cache
def answer_after_fork() -> None:
    """Sets torch and FAISS to one thread in forked children of this process.

    OpenMP's threads do not survive a fork, but GNU's library would wait for them: the first
    computation that it shares among threads would never end.
    """
    os.register_at_fork(after_in_child=_compute_alone)


def _compute_alone() -> None:
    for library, setter in (("torch", "set_num_threads"), ("faiss", "omp_set_num_threads")):
        # the import may be unfinished, by a thread that does not exist in the child
        if limit := getattr(sys.modules.get(library), setter, None):
            limit(1)


def thread_count() -> int:
    """Returns what OMP_NUM_THREADS allows, up to `most_threads`; where it is unset, the cores."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    if allowed.isdecimal() and int(allowed):
        return min(int(allowed), most_threads())
    known = getattr(os, "sched_getaffinity", None)  # macOS has none
    return len(known(0)) if known else os.cpu_count() or 1
