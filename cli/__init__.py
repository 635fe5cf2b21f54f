"""The `dipair-index` command: one file a command, and one place that shows errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import click

from dipair_index import __version__
from dipair_index.cli._settings import (
    ENVIRONMENT_PREFIX,
    defaults_of,
    origin_of,
    share_variables,
    variable_prefix,
)
from dipair_index.cli.add import add, update
from dipair_index.cli.bench import bench
from dipair_index.cli.build import build
from dipair_index.cli.compact import compact
from dipair_index.cli.delete import delete
from dipair_index.cli.evaluate import evaluate
from dipair_index.cli.export import export
from dipair_index.cli.info import info
from dipair_index.cli.label import label
from dipair_index.cli.make_dataset import make_dataset
from dipair_index.cli.rerank import rerank
from dipair_index.cli.score import score
from dipair_index.cli.train import train
from dipair_index.cli.train_teacher import train_teacher
from dipair_index.cli.verify import verify
from dipair_index.errors import DiPairError

CONFIG = "dipair_index.config"
"""Where click keeps the path of --config for the whole command."""


class Interrupted(click.ClickException):
    """Ctrl-C, with the exit code that shells give it."""

    exit_code = 130


class Pipeline(click.Group):
    """Lists its commands in the order of the pipeline; shows our errors without a traceback."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Lets every option of the command be set by a variable of its own name."""
        share_variables(cmd, variable_prefix(name or cmd.name or ""))
        super().add_command(cmd, name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names in the order in which they were added."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; what a user can mend becomes one sentence and exit code 1."""
        try:
            return super().invoke(ctx)
        except click.BadParameter as error:
            if origin := origin_of(error, ctx.meta.get(CONFIG)):
                error.message = f"{error.message.rstrip('.')} ({origin})"
            raise
        except DiPairError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as stop:
            raise Interrupted(str(stop) or "interrupted") from stop
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # click ends quietly when the reader of a pipe has gone
            raise click.ClickException(_sentence(error)) from error


def _sentence(error: OSError) -> str:
    """Says what the system refused, of which file, and what to do where that is known."""
    what = error.strerror or str(error) or type(error).__name__
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}{what}: free some space, then run the same command with --resume"
    return f"{where}{what}"


def _read_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Makes the file's settings the defaults of the commands."""
    ctx.meta[CONFIG] = path
    ctx.default_map = defaults_of(cli, path)


@click.group(
    cls=Pipeline,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": ENVIRONMENT_PREFIX,
    },
    epilog="Settings come from flags, then from variables (DIPAIR_BUILD_CODEC, or "
    "DIPAIR_MODEL for all commands), then from the file of --config. They go by the names of the "
    'options: DIPAIR_RERANK_TOP_K=5, {"rerank": {"top-k": 5}}.',
)
@click.version_option(__version__, message="%(prog)s %(version)s", allow_from_autoenv=False)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=_read_config,
    expose_value=False,
    is_eager=True,
    help="Take settings from a JSON or TOML file with a section a command",
)
def cli() -> None:
    """Retrieve passages with an ANN index, then rerank them with DiPair.

    \b
    Example:
      dipair-index build --corpus passages.tsv
      dipair-index rerank --query "why does dough rise"
    """


for command in (
    make_dataset, train_teacher, label, train, export,
    build, add, update, delete, compact, verify, info, rerank, score, evaluate, bench,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Runs `dipair-index`."""
    # Threads that spin while they wait for each other starve each other where the cores are busy
    # with something else: encoding one query took 500 ms instead of 13 ms on two busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cli(prog_name="dipair-index")
