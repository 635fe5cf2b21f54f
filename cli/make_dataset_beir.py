"""`dipair-index make-dataset beir`: pairs after DiPair's appendix B, from a BEIR folder."""

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
    become valid and test. Without test, dev gives both by halves; what is missing else is taken
    off train. Positives are the pairs judged 1 or more, and negatives are mined as those of
    `make-dataset msmarco`. Queries that no file judges are left out.

    \b
    Example:
      dipair-index make-dataset beir ~/beir/scifact --vectors model
    """
    from dipair_index.formats.beir import BeirFiles

    make_mined(lambda: BeirFiles.find(folder), **mining)
