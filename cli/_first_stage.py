"""The options of the first stage, and of how the head's ranking is fused with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from dipair_index.cli._options import Command, all_of
from dipair_index.cli._types import Number
from dipair_index.rerank.names import FIRST_STAGES, FUSION_METHODS, HEAD_WEIGHT


def first_stage_options() -> Callable[[Command], Command]:
    """`--first-stage`, `--fusion` and `--weight`."""
    return all_of(
        click.option(
            "--first-stage",
            type=click.Choice(FIRST_STAGES),
            default="vectors",
            show_default=True,
            help="Retrieve by vectors, by words (BM25), or by a fusion of both, from an index that "
            "was built with --lexical",
        ),
        click.option(
            "--fusion",
            type=click.Choice(FUSION_METHODS),
            help="Order passages by the first stage and the head together: by reciprocal ranks, or "
            "by a weighted sum of scores, each mapped to [0, 1] among the query's candidates; "
            "--first-stage both is fused by the same method  [default: by the head alone]",
        ),
        click.option(
            "--weight",
            type=Number(0, 1),
            help=f"The head's share of --fusion weighted  [default: {HEAD_WEIGHT}]",
        ),
    )


def check_first_stage(given: Mapping[str, Any]) -> None:
    """Refuses values of these options that do not fit the others of `rerank`."""
    stage, fusion = given["first_stage"], given["fusion"]
    if given["weight"] is not None and fusion != "weighted":
        raise click.UsageError("--weight is that of --fusion weighted: give both, or neither")
    if stage != "vectors" and given["run_file"]:
        raise click.UsageError(
            f"--run is a first stage itself: leave out --first-stage {stage}, or --run"
        )
    if fusion and given["raw_scores"]:
        raise click.UsageError("--fusion and --raw-scores exclude each other: leave out one")
    if given["no_rerank"] and (given["weight"] is not None or (fusion and stage != "both")):
        raise click.UsageError(
            "--no-rerank leaves nothing to fuse with the first stage: leave out "
            f"{'--fusion' if given['weight'] is None else '--weight'}, or --no-rerank"
        )
    if fusion and given["ignore_identical_ids"] and not given["run_file"]:
        raise click.UsageError(
            "--fusion with --ignore-identical-ids needs --run: the search's own ranks and scores "
            "count the passage that is left out"
        )
