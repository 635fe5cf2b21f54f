"""How long work tells what it has done, without knowing who shows it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

Report = Callable[[int], None]
"""Takes the count of what is done so far."""


Progress = Callable[[str, str], AbstractContextManager[Report]]
"""Called with what is done and the unit; gives a context whose value takes the count so far."""
