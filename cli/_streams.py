"""Prepares the standard streams, which the caller may have closed."""

from __future__ import annotations

import errno
import io
import os
import sys


class _ClosedOutput(io.TextIOBase):
    """Stands for a standard output that was closed before the command began (`>&-`)."""

    encoding = "utf-8"

    def write(self, text: str, /) -> int:
        raise OSError(
            errno.EBADF, "standard output is closed: send it to a file, a pipe or /dev/null"
        )


def prepare_streams() -> None:
    """Replaces streams that are closed, and sets the encoding of standard output to UTF-8.

    A closed descriptor is opened again, since the next file that is opened would get it, and what
    is printed would land in that file. PYTHONIOENCODING overrides the encoding, and a terminal
    keeps its own unless that is ASCII.
    """
    # opened the wrong way round, so that reading the input or writing the output fails
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDWR)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest descriptor that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the end)
    if sys.stdout is None:
        sys.stdout = _ClosedOutput()
    elif isinstance(sys.stdout, io.TextIOWrapper):
        ascii_only = sys.stdout.encoding.lower().replace("_", "-") in ("ascii", "us-ascii", "646")
        chosen = bool(os.environ.get("PYTHONIOENCODING"))
        if not chosen and (ascii_only or not sys.stdout.isatty()):
            sys.stdout.reconfigure(encoding="utf-8")
        sys.stdout.reconfigure(errors="backslashreplace")
