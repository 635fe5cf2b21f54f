"""Options with the same meaning in several commands, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

import click

from dipair_index.cli._console import remark
from dipair_index.cli._types import COUNT, TEXT

DEFAULT_INDEX = Path("dipair.index")
QUERIES_AT_ONCE = 32  # that are searched as one batch

Command = TypeVar("Command", bound=Callable[..., Any])


class Renamed(click.Option):
    """An option that also takes its former name, which help does not mention."""

    def __init__(self, param_decls: Sequence[str], *, former: str, **settings: Any) -> None:
        super().__init__([*param_decls, former], **settings)
        self.former = former

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Describes the option by its present name."""
        shown = copy(self)
        shown.opts = [name for name in self.opts if name != self.former]
        return click.Option.get_help_record(shown, ctx)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Calls the option by its present name."""
        return f"'{self.opts[0]}'"


def index_dir_option(purpose: str) -> Callable[[Command], Command]:
    """`--index-dir`; `purpose` is its help."""
    return click.option(
        "--index-dir",
        type=click.Path(path_type=Path),
        default=DEFAULT_INDEX,
        show_default=True,
        help=purpose,
    )


def index_dirs_option(purpose: str) -> Callable[[Command], Command]:
    """`--index-dir`, which may be given several times; `purpose` is the beginning of its help."""
    return click.option(
        "--index-dir",
        type=click.Path(path_type=Path),
        multiple=True,
        default=[DEFAULT_INDEX],
        show_default=True,
        help=f"{purpose}; several are searched as one",
    )


def compute_options(verb: str) -> Callable[[Command], Command]:
    """`--device` and `--threads`; `verb` begins their help.

    Threads are limited before the command runs, which gets no argument for them.
    """
    return all_of(
        click.option(
            "--device", default="cpu", show_default=True, help=f"{verb} on this torch device"
        ),
        click.option(
            "--threads",
            type=COUNT,
            callback=_limit_threads,
            expose_value=False,
            help=f"{verb} with at most this many threads  [default: as many as there are cores]",
        ),
    )


def backend_option() -> Callable[[Command], Command]:
    """`--backend`."""
    return click.option(
        "--backend",
        type=click.Choice(["auto", "torch", "onnx"]),
        default="auto",
        show_default=True,
        help="Compute with torch, or with ONNX Runtime, which starts sooner; auto is ONNX Runtime "
        "if the model has graphs",
    )


def precision_option() -> Callable[[Command], Command]:
    """`--precision`."""
    return click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16"]),
        default="float32",
        show_default=True,
        help="Compute the head in this precision: bfloat16, with torch, is about 1.5 times as fast "
        "on processors that have it, and changes a logit by about 0.01",
    )


def _limit_threads(_: click.Context, __: click.Parameter, count: int | None) -> None:
    """Limits the threads of libraries, which read the limit when they are imported."""
    if count is not None:
        from dipair_index.threads import limit_threads, most_threads

        most = most_threads()
        if count > most:
            remark(f"--threads {count:,} is more than this machine can use: taking {most:,}")
        limit_threads(min(count, most))


def json_option(what: str = "one JSON object") -> Callable[[Command], Command]:
    """`--json`, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what}")


def encoding_options(work: str, overwrite: str) -> Callable[[Command], Command]:
    """The options of all commands that encode passages; `overwrite` is the help of that one."""
    return all_of(
        click.option(
            "--batch-size",
            type=COUNT,
            help="Encode this many passages at once  [default: 16, on a GPU 256]",
        ),
        compute_options("Encode"),
        backend_option(),
        click.option(
            "--encode-precision",
            cls=Renamed,
            former="--precision",
            type=click.Choice(["float32", "int8"]),
            default="float32",
            show_default=True,
            help="Encode passages in this precision: int8, with ONNX Runtime, is faster, by how "
            "much depends on the CPU; a token embedding has a cosine of about 0.997 with that in "
            "float32",
        ),
        click.option("--resume", is_flag=True, help=f"Resume an interrupted {work}"),
        click.option("--overwrite", is_flag=True, help=overwrite),
    )


def given_sides_option(purpose: str) -> Callable[[Command], Command]:
    """`--side SIDE=FILE`, which may be repeated; `purpose` is its help."""
    return click.option(
        "--side", type=TEXT, multiple=True, metavar="SIDE=FILE", help=f"{purpose}; may be repeated"
    )


def all_of(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """One decorator for several options, listed in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
