"""How many threads this process may compute with."""

from __future__ import annotations

import os

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
"""What torch and FAISS, numpy and the tokenizers read when they are imported."""


def limit_threads(count: int) -> None:
    """Bounds the threads of whatever is imported from now on."""
    for variable in VARIABLES:
        os.environ[variable] = str(count)


def thread_count() -> int:
    """As many as OMP_NUM_THREADS allows, and as the process has cores where it says nothing."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    if allowed.isdigit() and int(allowed):
        return int(allowed)
    known = getattr(os, "sched_getaffinity", None)  # Linux has it, macOS and Windows have not
    return len(known(0)) if known else os.cpu_count() or 1
