"""The option by which a command is told which dataset to work on."""

from __future__ import annotations

from pathlib import Path

import click

from dipair_index.cli.make_dataset import DEFAULT_DATASET

dataset_option = click.option(
    "--dataset",
    type=click.Path(path_type=Path),
    default=DEFAULT_DATASET,
    show_default=True,
    metavar="DIR",
    help="Work on this dataset",
)
