"""Bytes and durations in words."""

from __future__ import annotations


def size_in_words(count: float) -> str:
    """Returns a count of bytes in the unit that suits it."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.4g} TB"


def time_in_words(seconds: float) -> str:
    """Returns a duration in the unit that suits it."""
    hours = seconds / 3600
    if seconds < 120:
        return f"{seconds:.0f} s"
    if hours < 2:
        return f"{seconds / 60:.0f} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:,.0f} days"
