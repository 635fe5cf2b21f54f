"""Reads and writes text files line by line, compressed or not."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from dipair_index.errors import FormatError
from dipair_index.files import replacing


def source_name(source: str | Path) -> str:
    """The name of a source in messages."""
    return "standard input" if str(source) == "-" else str(source) or "''"


def iter_lines(source: str | Path) -> Iterator[tuple[int, str]]:
    r"""Yields number and text of each line that is not blank; "-" is standard input.

    Only "\n" ends a line (texts hold U+2028, form feeds and lone "\r"); a "\r" before it goes
    with it. Raises `FormatError` if the source is missing, empty, damaged or not UTF-8.
    """
    number, name = 0, source_name(source)
    try:
        with _opened(source) as stream:
            for number, data in enumerate(stream, start=1):
                line = data.decode("utf-8-sig" if number == 1 else "utf-8")
                line = line.removesuffix("\n").removesuffix("\r")
                if line.strip(" "):
                    yield number, line
    except UnicodeDecodeError as error:
        raise FormatError(
            f"line {number} of {name}: byte {error.start + 1} is not UTF-8 "
            f"(0x{error.object[error.start]:02x}): convert the file to UTF-8"
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FormatError(
            f"{name} is cut off or damaged after line {number} ({error}): fetch it again"
        ) from error
    except FileNotFoundError as error:
        raise FormatError(f"there is no file {name}: check the path") from error
    except IsADirectoryError as error:
        raise FormatError(f"{source} is a directory: give the file itself") from error
    except OSError as error:
        raise FormatError(f"cannot read {name}: {error.strerror or error}") from error
    if number == 0:
        raise FormatError(f"{name} is empty: expected one record a line")


def standard_input() -> BufferedReader:
    """The bytes of standard input. Raises `FormatError` if it is closed."""
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None or stream.closed:
        raise FormatError("standard input is closed: send the data in, or give a file")
    return cast(BufferedReader, stream)


@contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """A UTF-8 text file that appears when complete, compressed if the name ends in `.gz`."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with (
        replacing(path) as unfinished,
        opener(unfinished, "wt", encoding="utf-8", newline="\n") as target,
    ):
        yield target


@contextmanager
def _opened(source: str | Path) -> Iterator[BufferedReader]:
    if str(source) == "-":
        yield _unpacked(standard_input())
    else:
        with open(source, "rb") as stream:
            yield _unpacked(stream)


def _unpacked(stream: BufferedReader) -> BufferedReader:
    # by content, since standard input has no name that could end in .gz
    if stream.peek(2)[:2] != b"\x1f\x8b":
        return stream
    return BufferedReader(cast(Any, gzip.GzipFile(fileobj=cast(BinaryIO, stream))))
