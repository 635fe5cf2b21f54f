"""What the commands that encode passages share: corpus, graphs, progress and messages."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from dipair_index.cli._console import progress, remark
from dipair_index.cli._options import DEFAULT_INDEX
from dipair_index.words import counted

if TYPE_CHECKING:
    from dipair_index.encoders.base import TextEncoder
    from dipair_index.records import Passage
    from dipair_index.rerank.part_builder import BuildSummary


def read_corpus(corpus: str | Path) -> Iterator[Passage]:
    """The passages of a file; the first is read at once, so that a wrong path fails early."""
    from dipair_index.formats.collections import read_passages

    passages = read_passages(corpus)
    return chain([next(passages)], passages)


def write_graphs(encoder: TextEncoder) -> str:
    """Writes a model's ONNX graphs if they are missing or stale and its folder is writable.

    Returns the reason if the model can have none, empty otherwise. A model without graphs works
    with torch alone.
    """
    if encoder.backend != "torch" or encoder.device != "cpu":
        return ""
    from dipair_index.encoders.dual_encoder import DualEncoder
    from dipair_index.errors import MissingPackageError, ModelError, WriteError
    from dipair_index.models.sources import model_folder
    from dipair_index.rerank.onnx_export import export_onnx

    if isinstance(encoder, DualEncoder) and os.access(model_folder(encoder.name), os.W_OK):
        try:
            export_onnx(encoder)
        except (ModelError, MissingPackageError, OSError, WriteError) as error:
            return str(error)
    return ""


@contextmanager
def encoding(index_dir: Path, *, again: str) -> Iterator[Callable[[int], None]]:
    """Shows progress; if the work ends early, says what is stored and how to resume.

    `again` is the command that resumes, in words.
    """
    from dipair_index.errors import DiPairError
    from dipair_index.stores.index_directory import Layout

    working = Layout(index_dir).building.root
    before = _stored(index_dir)
    try:
        with progress("Encoding", "passages") as report:
            yield report
    except KeyboardInterrupt as stop:
        stored = _stored(index_dir)
        raise KeyboardInterrupt(
            f"interrupted: {_are(stored)} stored in {working}, run {again} to go on"
            if stored
            else "interrupted before anything was stored"
        ) from stop
    except (DiPairError, OSError):
        if (stored := _stored(index_dir)) > before:
            remark(f"{_are(stored)} stored in {working}: run {again} to go on")
        raise


def _stored(index_dir: Path) -> int:
    from dipair_index.rerank.unfinished import read_progress
    from dipair_index.stores.index_directory import Layout

    begun = read_progress(Layout(index_dir).building)
    return begun.passages if begun else 0


def _are(stored: int) -> str:
    return counted(stored, "passage is", "passages are")


def describe(what: str, summary: BuildSummary) -> None:
    """Prints what was encoded, how fast, and how many passages were truncated."""
    rate = summary.encoded / max(summary.seconds, 1e-9)
    before = summary.passages - summary.encoded
    resumed = f", {before:,} of them before" if before else ""
    remark(f"{what}{resumed}: {summary.seconds:.1f} s, {counted(round(rate), 'passage')} a second")
    if long := summary.truncated + summary.split:
        cut = counted(
            long,
            "passage is longer than the model reads and was",
            "passages are longer than the model reads and were",
        )
        remark(f"{cut} {'split' if summary.split else 'truncated'}")


def command_for(name: str, index_dir: Path) -> str:
    """A command for the next step, with --index-dir unless it is the default."""
    where = "" if index_dir == DEFAULT_INDEX else f" --index-dir {shlex.quote(str(index_dir))}"
    return f"dipair-index {name}{where}"


def how_to_ask(index_dir: Path) -> str:
    """The command that queries the index, for the end of a message."""
    return f'ask it with `{command_for("rerank", index_dir)} --query "..."`'
