"""What people read: remarks and progress on stderr, tables on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import TextIO

import click

SECONDS_BETWEEN_LINES = 10.0


def remark(message: str) -> None:
    """Says something beside the data, on stderr."""
    click.echo(message, err=True)


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Shows how far a long job is; yields a function that takes the count so far.

    A line that moves on a terminal, and a plain line every ten seconds where stderr is a file.
    """
    # the first call, when and with what count: a resumed job does not start at nought
    first: tuple[float, int] | None = None

    def line(count: int) -> str:
        nonlocal first
        now = time.monotonic()
        first = since, before = first or (now, count)
        if count == before:
            return f"{what}: {count:,} {unit}"
        rate = (count - before) / max(now - since, 1e-9)
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        return f"{what}: {count:,} {unit}, {speed} a second"

    if _is_terminal(sys.stderr):
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn

        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            transient=True,
            # else rich would send what is printed on stdout to stderr
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with bar:
            task = bar.add_task(what)

            def show(count: int) -> None:
                bar.update(task, description=line(count))

            yield show
    else:
        said = time.monotonic()

        def say(count: int) -> None:
            nonlocal said
            shown = line(count)
            if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
                said = time.monotonic()
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
            click.echo("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        right = name in numbers
        shown.add_column(name, justify="right" if right else "left", no_wrap=right)
    for row in rows:
        # Text, because "[/b]" in a passage is not markup
        shown.add_row(*(Text(cell) for cell in row))
    Console().print(shown)


def snippet(text: str, length: int = 100) -> str:
    """The beginning of a text, on one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1].rstrip() + "…"


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty()
