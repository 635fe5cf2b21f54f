"""The options that name the dataset of a command: the one to read, or the one to make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from dipair_index.cli._options import Command, all_of, json_option
from dipair_index.cli._types import NOT_NEGATIVE_COUNT

DEFAULT_DATASET = Path("dipair.dataset")

dataset_option = click.option(
    "--dataset",
    type=click.Path(path_type=Path),
    default=DEFAULT_DATASET,
    show_default=True,
    metavar="DIR",
    help="Read the dataset in this directory",
)


def new_dataset_options() -> Callable[[Command], Command]:
    """`--out`, `--seed`, `--overwrite` and `--json` of a new dataset."""
    return all_of(
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            default=DEFAULT_DATASET,
            show_default=True,
            metavar="DIR",
            help="Write the dataset into this directory",
        ),
        click.option(
            "--seed",
            type=NOT_NEGATIVE_COUNT,
            default=0,
            show_default=True,
            help="Random seed",
        ),
        click.option("--overwrite", is_flag=True, help="Replace a dataset that exists"),
        json_option("dataset.json instead of a table"),
    )
