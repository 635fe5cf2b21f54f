"""`dipair-index make-dataset msmarco`: DiPair's dataset of pairs (appendix B)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dipair_index.cli._console import progress
from dipair_index.cli._mined_dataset import make_mined, mining_options

if TYPE_CHECKING:
    from dipair_index.formats.msmarco import MsMarcoFiles


@click.command()
@click.option(
    "--from-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Read the files in this directory: collection.tsv, queries.train.tsv, qrels.train.tsv "
    "and those of dev; .gz too",
)
@click.option("--sample", is_flag=True, help="Read the sample that comes with dipair-index")
@click.option(
    "--download-dir",
    type=click.Path(path_type=Path),
    default=Path("msmarco"),
    show_default=True,
    metavar="DIR",
    help="Download into this directory, if neither --from-dir nor --sample is given",
)
@mining_options()
def msmarco(from_dir: Path | None, sample: bool, download_dir: Path, **mining: Any) -> None:
    """Make the Q2P-MAT dataset from MS MARCO passage ranking.

    Positives are the judged pairs, negatives are the nearest passages with a score below a
    threshold, and the transfer set holds the nearest passages of every train and unlabelled query.
    Without options, MS MARCO is downloaded first (1.1 GB). The same command resumes an interrupted
    run; with --overwrite, another threshold reuses the vectors.

    \b
    Example:
      dipair-index make-dataset msmarco --sample
      dipair-index make-dataset msmarco --from-dir ~/msmarco --max-score-percentile 40
    """
    if from_dir and sample:
        raise click.UsageError("give --from-dir or --sample, not both")
    make_mined(lambda: _files(from_dir, sample, download_dir), **mining)


def _files(from_dir: Path | None, sample: bool, download_dir: Path) -> MsMarcoFiles:
    from dipair_index.formats.msmarco import MsMarcoFiles, download_msmarco, sample_folder

    if sample:
        return MsMarcoFiles.find(sample_folder())
    if from_dir:
        return MsMarcoFiles.find(from_dir)
    with progress(f"downloading MS MARCO to {download_dir}", "bytes") as report:
        return download_msmarco(download_dir, report)
