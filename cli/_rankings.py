"""Prints the rankings of `dipair-index rerank`: as a run, as JSON, or as tables."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import TYPE_CHECKING, TypeAlias

from dipair_index.cli._console import print_json, say, snippet, table, write_data

if TYPE_CHECKING:
    from dipair_index.records import Query
    from dipair_index.rerank.ranking import RankedPassage, Ranking

Rankings: TypeAlias = "Iterator[tuple[Query, Ranking]]"
TAG = "dipair-index"


def write_trec(ranked: Rankings) -> None:
    from dipair_index.formats.trec import write_run
    from dipair_index.records import ScoredPassage

    for query, passages in ranked:
        scored = [ScoredPassage(passage.id, passage.score) for passage in passages]
        lines = StringIO()
        write_run({query.query_id: scored}, lines, TAG)
        write_data(lines.getvalue())


def write_json(ranked: Rankings) -> None:
    for query, passages in ranked:
        results = [passage._asdict() for passage in passages]
        answer = {"query_id": query.query_id, "query": query.text, "results": results}
        print_json(answer)


def write_table(ranked: Rankings, *, several: bool) -> None:
    """Prints one table, with the query in the first column if there are several."""
    columns = ["rank", "score", "retrieval rank", "id", "text"]
    rows = (_cells(query, passage, several) for query, passages in ranked for passage in passages)
    table(["query", *columns] if several else columns, rows, numbers=columns[:3])


def _cells(query: Query, passage: RankedPassage, several: bool) -> list[str]:
    before = "" if passage.retrieval_rank is None else str(passage.retrieval_rank)
    cells = [str(passage.rank), f"{passage.score:.4f}", before, passage.id, _text(passage)]
    return [query.query_id, *cells] if several else cells


def write_beside(ranked: Rankings, top_k: int, before_name: str) -> None:
    """Prints for each query the rankings before and after DiPair, rank by rank."""
    for query, passages in ranked:
        say(query.text)
        before = sorted(passages, key=lambda passage: passage.retrieval_rank or 0)
        rows = [
            [str(rank), _short(left), _short(right)]
            for rank, (left, right) in enumerate(zip(before, passages, strict=True), start=1)
        ]
        table(["rank", before_name, "DiPair"], rows[:top_k], numbers=["rank"])


def _text(passage: RankedPassage) -> str:
    return snippet(f"{passage.title} {passage.text}" if passage.title else passage.text)


def _short(passage: RankedPassage) -> str:
    return f"{passage.id}: {snippet(_text(passage), 60)}"
