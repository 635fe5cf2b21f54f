"""The queries that a command asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dipair_index.records import Query


def queries_or_sample(file: str | None) -> list[Query]:
    """The queries of a TSV or JSONL file; without one, the dev queries of the bundled sample."""
    from dipair_index.formats.collections import read_queries
    from dipair_index.formats.msmarco import sample_folder

    return list(read_queries(file or sample_folder() / "queries.dev.tsv"))
