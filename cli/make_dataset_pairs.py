"""`dipair-index make-dataset pairs`: makes a dataset of labelled pairs or tuples."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from dipair_index.cli._console import print_json, progress, remark, table
from dipair_index.cli._dataset_option import new_dataset_options
from dipair_index.cli._types import NUMBER, TEXT


@click.command()
@click.argument("file")
@click.option(
    "--columns",
    type=TEXT,
    default="query,passage,label",
    show_default=True,
    metavar="ROLE=COLUMN,...",
    help="Names of the columns of query, passage and label, and, if there are such, of query_id, "
    "passage_id, split and further texts under names of your own",
)
@click.option(
    "--max-label",
    type=NUMBER,
    default=1.0,
    show_default=True,
    metavar="G",
    help="Highest label, by which all labels are divided, so that they lie between 0 and 1",
)
@click.option(
    "--duplicates",
    type=click.Choice(["refuse", "mean"]),
    default="refuse",
    show_default=True,
    help="Refuse a tuple with two labels, or take their mean",
)
@click.option("--transfer", metavar="FILE", help="Add this file's tuples to the transfer set")
@click.option(
    "--valid-share",
    type=NUMBER,
    default=0.1,
    show_default=True,
    help="Share of the queries in the split valid, unless a column names the split",
)
@click.option(
    "--test-share",
    type=NUMBER,
    default=0.1,
    show_default=True,
    help="Share of the queries in the split test, likewise",
)
@new_dataset_options()
def pairs(
    file: str,
    columns: str,
    max_label: float,
    duplicates: str,
    transfer: str | None,
    valid_share: float,
    test_share: float,
    out: Path,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make a dataset from a file of labelled pairs, or of tuples of three texts and more.

    FILE is TSV with a header line, or JSONL (.jsonl); either may be compressed with gzip, and - is
    standard input. Labels go from 0 to 1, or to --max-label. No query is in two splits. Nothing is
    mined: the transfer set holds the train tuples, and the rows without a label.

    Equal texts are one item, unless query_id or passage_id say which are.

    \b
    Example:
      dipair-index make-dataset pairs pairs.tsv --columns query=term,passage=title,label=relevance
      dipair-index make-dataset pairs shop.jsonl --columns query,passage=title,description,label
    """
    from dipair_index.data.collected_tuples import SplitSettings
    from dipair_index.data.directory import begin, finish
    from dipair_index.data.pair_dataset import build_pair_dataset
    from dipair_index.formats.tuples import Columns

    named = Columns.parse(columns)
    settings = SplitSettings(valid_share, test_share, max_label, duplicates, seed)
    building = begin(out, overwrite=overwrite, anew=True)
    try:
        record = build_pair_dataset(
            file, named, building, settings, progress=progress, transfer=transfer
        )
    except BaseException:  # it is quick, so there is nothing to resume
        shutil.rmtree(building.folder, ignore_errors=True)
        raise
    finish(building, out)
    if as_json:
        print_json(record, indent=2, sort_keys=True)
    else:
        _print_table(record)
    for what, count in record["left_out"].items():
        if count:
            remark(f"left out, {what}: {count:,}")
    remark(f"wrote {out}")


def _print_table(record: dict[str, Any]) -> None:
    """Prints the counts as DiPair's table 1 does."""
    words = {f"words/{side}": f"mean_{side}_words" for side in record["sides"]}
    columns = {
        "tuples": "pairs", "labelled": "labelled", "queries": "queries",
        "mean label": "mean_label", **words,
    }  # fmt: skip
    rows = [
        [split, *(f"{counts[name]:,}" for name in columns.values())]
        for split, counts in (
            (split, record["table"][split]) for split in ("transfer", "train", "valid", "test")
        )
    ]
    table(["set", *columns], rows, numbers=list(columns))
