"""The options that fuse the head's ranking with that of the first stage."""

from __future__ import annotations

from collections.abc import Callable

import click

from dipair_index.cli._options import Command, all_of
from dipair_index.cli._types import Number
from dipair_index.rerank.names import FUSION_METHODS, HEAD_WEIGHT


def fusion_options() -> Callable[[Command], Command]:
    """`--fusion` and `--weight`."""
    return all_of(
        click.option(
            "--fusion",
            type=click.Choice(FUSION_METHODS),
            help="Order passages by the first stage and the head together: by reciprocal ranks, or "
            "by a weighted sum of scores, each mapped to [0, 1] among the query's candidates  "
            "[default: by the head alone]",
        ),
        click.option(
            "--weight",
            type=Number(0, 1),
            help=f"The head's share of --fusion weighted  [default: {HEAD_WEIGHT}]",
        ),
    )
