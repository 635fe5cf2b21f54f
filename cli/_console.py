"""Output: messages and progress on stderr, tables and data on stdout."""

from __future__ import annotations

import errno
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from typing import Any, TextIO

import click

from dipair_index.cli._amounts import time_in_words
from dipair_index.errors import WriteError

SECONDS_BETWEEN_LINES = 10.0


_BYTES = re.compile("[\udc80-\udcff]+")
"""Bytes that are not of the locale's encoding, as Python keeps them in a name or an argument."""
_CONTROLS = {
    code: chr(code).encode("unicode_escape").decode()
    for code in (
        *range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0),  # all but tab and line break
        *range(0x202A, 0x202F), *range(0x2066, 0x206A),  # those that reorder what follows
    )
}  # fmt: skip
_JSON_CONTROLS = {code: f"\\u{code:04x}" for code in _CONTROLS if code >= 0x7F}


def printable(text: str) -> str:
    """The text with control characters escaped, so that it cannot change a terminal's state."""
    as_text = _BYTES.sub(lambda found: _decoded(found[0], "backslashreplace"), text)
    return as_text.translate(_CONTROLS)


def remark(message: str) -> None:
    """Prints a message to stderr."""
    # a command must not fail only because its messages cannot be printed
    with suppress(OSError):
        click.echo(printable(message), err=True)


def say(text: str) -> None:
    """Prints a text for people to stdout."""
    _write(printable(text))


def write_data(text: str) -> None:
    """Prints lines of data to stdout: as they are, but escaped on a terminal."""
    _write(printable(text) if _is_terminal(sys.stdout) else text, end="")


def print_json(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> None:
    """Prints a JSON value to stdout: null for numbers that JSON does not have."""

    encoding = (sys.stdout.encoding or "utf-8").lower().replace("-", "").replace("_", "")

    def dumped(value: Any) -> str:
        return json.dumps(
            value,
            ensure_ascii=encoding != "utf8",
            allow_nan=False,
            indent=indent,
            sort_keys=sort_keys,
        )

    try:
        text = dumped(value)
    except ValueError:
        text = dumped(_without_nan(value))
    text = _BYTES.sub(lambda found: _decoded(found[0], "replace"), text)
    # JSON has escapes of its own for them, which mean the same
    _write(text.translate(_JSON_CONTROLS))


def _write(text: str, end: str = "\n") -> None:
    try:
        # with colour, since click would leave out of the data what looks like one
        click.echo(text + end, nl=False, color=True)
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.EBADF):
            raise  # the reader has what it wanted, or there never was one
        # another sentence than for what a command stores, which can be resumed
        raise WriteError(f"cannot write to standard output: {error.strerror}") from error


def _decoded(escaped: str, errors: str) -> str:
    return escaped.encode("utf-8", "surrogateescape").decode("utf-8", errors)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    return [_without_nan(each) for each in value] if isinstance(value, list | tuple) else value


@contextmanager
def progress(
    what: str, unit: str, total: Callable[[], int] = lambda: 0
) -> Iterator[Callable[[int], None]]:
    """Shows the progress of a long job; yields a function that takes the count so far.

    A terminal gets one line that is updated, a file or pipe a line every ten seconds. If `total`
    gives the count at the end, the line has the time that is left.
    """
    # the first call, when and with what count: a resumed job does not start at zero
    first: tuple[float, int] | None = None

    def line(count: int) -> str:
        nonlocal first
        now = time.monotonic()
        first = since, before = first or (now, count)
        if count == before:
            return f"{what}: {count:,} {unit}"
        rate = (count - before) / max(now - since, 1e-9)
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        shown = f"{what}: {count:,} {unit}, {speed} a second"
        left = max(total() - count, 0) / max(rate, 1e-9)
        return f"{shown}, {time_in_words(left)} left" if left else shown

    if _is_terminal(sys.stderr):
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn

        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
            transient=True,
            # else rich would send what is printed on stdout to stderr
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with bar:
            task = bar.add_task(printable(what))

            def show(count: int) -> None:
                bar.update(task, description=printable(line(count)))

            yield show
    else:
        last = time.monotonic()

        def say(count: int) -> None:
            nonlocal last
            shown = line(count)
            if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                remark(shown)

        yield say


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = ()
) -> None:
    """Prints a table on a terminal, and tab-separated lines with a header line into a pipe.

    `numbers` names the columns that are set to the right.
    """
    if not _is_terminal(sys.stdout):
        rows = iter(rows)
        # the first row is made before the header is printed, since making it may fail
        first_row = list(islice(rows, 1))
        for row in chain([columns], first_row, rows):
            say("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        right = name in numbers
        shown.add_column(Text(printable(name)), justify="right" if right else "left", no_wrap=right)
    for row in rows:
        # Text, because "[/b]" in a passage is not markup
        shown.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(shown)


def snippet(text: str, length: int = 100) -> str:
    """The beginning of a text, on one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1].rstrip() + "…"


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty()
