"""`dipair-index score`: scores each row of a file of pairs or tuples."""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from dipair_index.cli._console import print_json, progress, remark, write_data
from dipair_index.cli._options import compute_options, given_sides_option, json_option
from dipair_index.cli._types import COUNT, TEXT
from dipair_index.words import counted

if TYPE_CHECKING:
    from dipair_index.records import FloatArray


@click.command()
@click.argument("file")
@click.option(
    "--columns",
    type=TEXT,
    default="query,passage",
    show_default=True,
    metavar="SIDE=COLUMN,...",
    help="Names of the columns of query, passage and the model's further sides",
)
@click.option(
    "--model",
    default="default",
    show_default=True,
    metavar="NAME",
    help="Score with this DiPair model or cross-encoder",
)
@given_sides_option(
    "Take the tokens of this side of the model from a file, whose items the column names"
)
@click.option("--raw-scores", is_flag=True, help="Print logits, not scores from 0 to 1")
@click.option(
    "--batch-size",
    type=COUNT,
    default=4096,
    show_default=True,
    help="Score this many rows at once, and encode equal texts among them once",
)
@json_option("one JSON object for each row")
@compute_options("Score")
def score(
    file: str,
    columns: str,
    model: str,
    side: tuple[str, ...],
    raw_scores: bool,
    batch_size: int,
    as_json: bool,
    device: str,
) -> None:
    """Score each row of a file of pairs, or of tuples of three texts and more.

    FILE is TSV with a header line, or JSONL (.jsonl); either may be compressed with gzip, and - is
    standard input. Each row is printed as it was read, with its score at the end: as TSV with a
    header line, or as JSON lines. A model with several outputs adds one column for each: the
    probabilities of its classes.

    \b
    Example:
      dipair-index score pairs.tsv > scored.tsv
      dipair-index score shop.jsonl --columns query,passage=title,description --model shop.model
      dipair-index score pairs.tsv --columns query,passage=image --side passage=images.parquet
    """
    from dipair_index.formats.tuples import SCORE, Columns, read_tuples

    named = Columns.parse(columns).unlabelled
    rows = read_tuples(file, named)
    batch = list(islice(rows, batch_size))  # says what is wrong with it before torch takes seconds
    if taken := [name for name in batch[0].fields if re.fullmatch(rf"{SCORE}(_\d+)?", name)]:
        raise click.UsageError(f"{file} has a column {taken[0]} already: rename or remove it")
    header = list(batch[0].fields)
    from dipair_index.encoders.given_sides import read_given
    from dipair_index.encoders.scorers import open_scorer

    scorer = open_scorer(model, named.sides, device=device, given=read_given(side))
    done = 0
    with progress("Scoring", "rows") as report:
        while batch:
            sides = zip(*(row.texts for row in batch), strict=True)
            texts = {side: list(of_side) for side, of_side in zip(named.sides, sides, strict=True)}
            scores = _columns(scorer(texts), raw_scores)
            if not as_json and not done:
                write_data("\t".join([*header, *scores]) + "\n")
            for row, values in zip(batch, zip(*scores.values(), strict=True), strict=True):
                if as_json:
                    found = dict(zip(scores, values, strict=True))
                    print_json({**row.fields, **found})
                else:
                    cells = [_cell(row.fields.get(name)) for name in header]
                    write_data("\t".join([*cells, *(f"{value:.6g}" for value in values)]) + "\n")
            done += len(batch)
            report(done)
            batch = list(islice(rows, batch_size))
    remark(f"{counted(done, 'row is', 'rows are')} scored by {model}")


def _columns(logits: FloatArray, raw: bool) -> dict[str, list[float]]:
    """Scores by the names of their columns, one column for each output of the model."""
    import numpy as np

    from dipair_index.formats.tuples import SCORE

    values = logits.astype(np.float64)
    if values.ndim == 1:
        shown = values if raw else np.exp(-np.logaddexp(0, -values))  # the sigmoid
        return {SCORE: shown.tolist()}
    if not raw:
        values = np.exp(values - np.logaddexp.reduce(values, axis=1, keepdims=True))
    return {f"{SCORE}_{place}": column.tolist() for place, column in enumerate(values.T)}


def _cell(value: Any) -> str:
    """A field as a cell of TSV, which holds no tabs and no line breaks."""
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    return text.translate({ord(character): " " for character in "\t\n\r"})
