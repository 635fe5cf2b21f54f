"""`dipair-index match`: scores pairs of the texts of two indexes."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dipair_index.cli._amounts import size_in_words, time_in_words
from dipair_index.cli._console import print_json, progress, remark, table
from dipair_index.cli._options import compute_options, json_option, precision_option
from dipair_index.cli._types import COUNT, NUMBER
from dipair_index.words import counted

if TYPE_CHECKING:
    from dipair_index.rerank.offline.estimate import MatchEstimate


@click.command()
@click.argument("left", type=click.Path(path_type=Path))
@click.argument("right", type=click.Path(path_type=Path))
@click.option("--out", metavar="FOLDER", help="Write the scores into this folder or s3:// URL")
@click.option(
    "--pairs",
    metavar="FILE",
    help="Score the pairs of this file, folder or s3:// URL: Parquet with columns left and right, "
    "or TSV of two ids a line without a header",
)
@click.option("--all", "every", is_flag=True, help="Score every left text with every right one")
@click.option(
    "--nearest",
    type=COUNT,
    metavar="C",
    help="Score each left text with the C right ones that the vector search finds",
)
@click.option("--top-k", type=COUNT, help="Keep this many best pairs of each left text")
@click.option("--min-score", type=NUMBER, help="Keep pairs with this score and higher")
@click.option("--raw-scores", is_flag=True, help="Write logits, not scores from 0 to 1")
@click.option("--model", help="Score with this DiPair model  [default: the one of the indexes]")
@click.option(
    "--block-size",
    "block_pairs",
    type=COUNT,
    default=2**18,
    show_default=True,
    help="Write files of about this many pairs; a killed run repeats one at most",
)
@click.option(
    "--engine",
    type=click.Choice(["plain", "ray"]),
    default="plain",
    show_default=True,
    help="Compute in this process, or on the Ray cluster of RAY_ADDRESS, by default a local one",
)
@click.option(
    "--workers",
    type=COUNT,
    help="Compute in this many processes of the Ray cluster  [default: one a core, or a GPU]",
)
@click.option(
    "--estimate", is_flag=True, help="Print the pairs, hours and bytes, and score nothing else"
)
@click.option("--overwrite", is_flag=True, help="Replace the scores of another match")
@json_option("the estimate, or what was done, as one JSON object")
@compute_options("Score")
@click.option(
    "--backend",
    type=click.Choice(["auto", "torch", "onnx"]),
    default="auto",
    show_default=True,
    help="Compute with torch or ONNX Runtime; auto is torch where it is installed, which computes "
    "what depends on one text once",
)
@precision_option()
def match(
    left: Path, right: Path, out: str | None, estimate: bool, as_json: bool, **settings: Any
) -> None:
    """Score pairs of the texts of two indexes from their stored tokens.

    LEFT and RIGHT are indexes of one model, of queries (`build --side query`) and of passages, or
    one index twice. The scores are Parquet files with the columns left, right and score. A run that
    was interrupted goes on by the same command.

    \b
    Example:
      dipair-index match queries.index passages.index --pairs pairs.parquet --out scores
      dipair-index match queries.index passages.index --all --top-k 100 --out best
      dipair-index match queries.index passages.index --nearest 50 --out transfer
      dipair-index match queries.index passages.index --all --estimate
    """
    chosen = {name: settings[name] for name in ("pairs", "every", "nearest")}
    if sum(value not in (None, False) for value in chosen.values()) != 1:
        raise click.UsageError("give one of --pairs FILE, --all and --nearest C")
    if estimate:
        _estimate(left, right, settings, as_json=as_json)
        return
    if out is None:
        raise click.UsageError("give --out FOLDER for the scores, or --estimate")
    from dipair_index.errors import DiPairError
    from dipair_index.rerank.offline.match import match_indexes

    total = 0
    try:
        with (
            progress("Scoring", "pairs", lambda: total) as show,
            redirect_stdout(sys.stderr),  # on which Ray tells of workers that died
        ):

            def report(done: int, pairs: int) -> None:
                nonlocal total
                total = pairs
                show(done)

            summary = match_indexes(left, right, out, report=report, **settings)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"interrupted: {_go_on(out)}") from stop
    except DiPairError:
        if total:
            remark(_go_on(out))
        raise
    rate = counted(round(summary.scored / max(summary.seconds, 1e-9)), "pair")
    remark(
        f"{counted(summary.pairs, 'pair is', 'pairs are')} scored in {out}, {summary.scored:,} of "
        f"them now: {summary.seconds:.1f} s, {rate} a second"
    )
    if as_json:
        print_json(summary._asdict())


def _go_on(out: str) -> str:
    return f"the blocks that are done stay in {out}: the same command goes on"


def _estimate(left: Path, right: Path, settings: dict[str, Any], *, as_json: bool) -> None:
    from dipair_index.rerank.offline.estimate import estimate_match
    from dipair_index.rerank.offline.settings import MatchSettings

    for name in ("engine", "workers", "overwrite"):
        del settings[name]
    found = estimate_match(MatchSettings(left=left, right=right, **settings))
    if as_json:
        print_json({**found._asdict(), "hours": found.hours})
        return
    least = settings["min_score"] is not None
    rows = [[name, value] for name, value in _rows(found, "at most " if least else "")]
    table(["what", "how much"], rows)


def _rows(found: MatchEstimate, most: str) -> list[tuple[str, str]]:
    return [
        ("pairs", f"{found.pairs:,}"),
        ("blocks", f"{found.blocks:,}"),
        ("pairs a second", f"{found.pairs_per_second:,.0f} on this machine"),
        ("hours", f"{found.hours:,.4g} ({time_in_words(3600 * found.hours)})"),
        ("rows", f"{most}{found.rows:,}"),
        ("bytes", f"{most}{found.bytes:,} ({size_in_words(found.bytes)})"),
    ]
