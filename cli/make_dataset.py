"""`dipair-index make-dataset`: makes training data of judged queries or labelled pairs."""

from __future__ import annotations

import click

from dipair_index.cli.make_dataset_beir import beir
from dipair_index.cli.make_dataset_msmarco import msmarco
from dipair_index.cli.make_dataset_pairs import pairs


@click.group()
def make_dataset() -> None:
    """Make a dataset of judged, mined and unlabelled pairs.

    \b
    Example:
      dipair-index make-dataset msmarco --sample
      dipair-index make-dataset pairs pairs.tsv --columns query=term,passage=title,label=relevance
    """


for command in (msmarco, beir, pairs):
    make_dataset.add_command(command)
