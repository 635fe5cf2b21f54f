"""The types by which long computations report progress, whatever displays it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

Report = Callable[[int], None]
"""A function that takes the number of items done so far."""

Progress = Callable[[str, str], AbstractContextManager[Report]]
"""Takes a description ("embedding passages") and a unit ("passages"), returns a context manager
whose value is the `Report` for that task."""
