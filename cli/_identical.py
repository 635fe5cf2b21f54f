"""The convention that a query is no answer to itself, for sets whose queries are passages."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

import click

from dipair_index.cli._options import Command

if TYPE_CHECKING:
    from dipair_index.rerank.ranking import Ranking


def identical_ids_option() -> Callable[[Command], Command]:
    """`--ignore-identical-ids`, as BEIR and MTEB call it."""
    return click.option(
        "--ignore-identical-ids",
        is_flag=True,
        help="Leave out each passage with the id of its query, as BEIR does for ArguAna and Quora",
    )


def without_own(query_id: str, ranking: Ranking, depth: int, top_k: int) -> Ranking:
    """The `top_k` best without the passage `query_id`, of the first `depth` that were retrieved.

    `ranking` holds one passage more than that. Ranks before and after are counted without it.
    """
    others = [passage for passage in ranking if passage.id != query_id]
    retrieved = sorted(others, key=lambda passage: passage.retrieval_rank or 0)[:depth]
    before = {passage.id: rank for rank, passage in enumerate(retrieved, start=1)}
    kept = (passage for passage in others if passage.id in before)
    return type(ranking)(
        [
            passage._replace(rank=rank, retrieval_rank=before[passage.id])
            for rank, passage in enumerate(islice(kept, top_k), start=1)
        ],
        ranking.timings,
    )
