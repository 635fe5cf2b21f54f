"""The `dipair-index` command: one file a command; files that begin with _ are shared."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dipair_index import __version__
from dipair_index.cli._pipeline import Pipeline, read_config
from dipair_index.cli._settings import ENVIRONMENT_PREFIX
from dipair_index.cli._streams import prepare_streams
from dipair_index.cli.add import add, update
from dipair_index.cli.bench import bench
from dipair_index.cli.build import build
from dipair_index.cli.compact import compact
from dipair_index.cli.delete import delete
from dipair_index.cli.evaluate import evaluate
from dipair_index.cli.export import export
from dipair_index.cli.info import info
from dipair_index.cli.inspect import inspect
from dipair_index.cli.label import label
from dipair_index.cli.make_dataset import make_dataset
from dipair_index.cli.match import match
from dipair_index.cli.rerank import rerank
from dipair_index.cli.score import score
from dipair_index.cli.serve import serve
from dipair_index.cli.train import train
from dipair_index.cli.train_teacher import train_teacher
from dipair_index.cli.verify import verify


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
    callback=read_config,
    expose_value=False,
    is_eager=True,
    help="Read settings from a JSON or TOML file with a section for each command",
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
    build, add, update, delete, compact, verify, info, rerank, serve, score, match, evaluate,
    inspect, bench,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Runs `dipair-index`."""
    # Threads that spin while they wait for each other starve each other where the cores are busy
    # with something else: encoding one query took 500 ms instead of 13 ms on two busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    prepare_streams()
    cli(prog_name="dipair-index")
