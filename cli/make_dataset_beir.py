"""`dipair-index make-dataset beir`: DiPair's dataset of pairs from a BEIR folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dipair_index.cli._mined_dataset import make_mined, mining_options


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@mining_options()
def beir(folder: Path, **mining: Any) -> None:
    """Make a dataset of pairs from a folder in BEIR's layout.

    DIR holds corpus.jsonl, queries.jsonl and qrels/train.tsv; qrels/dev.tsv and qrels/test.tsv
    become the splits valid and test. Without test.tsv, dev is split in half into both; any other
    split that is missing is taken from train. Positives are the pairs judged 1 or more, negatives
    are mined as in `make-dataset msmarco`, and queries without judgements are left out.

    \b
    Example:
      dipair-index make-dataset beir ~/beir/scifact --vectors model
    """
    from dipair_index.formats.beir import BeirFiles

    make_mined(lambda: BeirFiles.find(folder), **mining)
