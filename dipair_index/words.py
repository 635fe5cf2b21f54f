"""Phrases for messages: counts with their noun, and lists that are cut short."""

from __future__ import annotations

from collections.abc import Iterable


def counted(count: int, one: str, many: str | None = None) -> str:
    """Returns the count with a noun or phrase that agrees: "1 query", "1,234 queries".

    `many` is the plural of `one`, by default that of a regular noun: counted(2, "row is", "rows
    are").
    """
    if many is None:
        ends_in_y = one.endswith("y") and one[-2:-1] not in ("a", "e", "o", "u")
        many = f"{one[:-1]}ies" if ends_in_y else f"{one}s"
    return f"{count:,} {one if count == 1 else many}"


def listed(names: Iterable[str], most: int = 5) -> str:
    """Returns the first `most` names, comma-separated, and how many more there are."""
    known = list(names)
    others = f" and {len(known) - most:,} more" if len(known) > most else ""
    return ", ".join(known[:most]) + others


def reason(error: BaseException) -> str:
    """Returns the message of a library's error on one line, cut to 200 characters."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message if len(message) <= 200 else f"{message[:199]}…"
