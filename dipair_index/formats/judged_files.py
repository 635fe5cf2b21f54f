"""A collection, queries and judgements that belong together, in whatever layout."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Protocol

from dipair_index.errors import FormatError
from dipair_index.formats.trec import Judgement, collect_qrels, iter_qrels
from dipair_index.records import Passage, Qrels, Query
from dipair_index.words import listed


class JudgedFiles(Protocol):
    """A collection, queries and judgements, in whatever layout."""

    @property
    def kind(self) -> str:
        """The name of the format in the record of a dataset."""
        ...

    @property
    def train_qrels(self) -> Path:
        """The file that judges the train queries."""
        ...

    def iter_passages(self) -> Iterator[Passage]:
        """Yields the collection."""
        ...

    def read_queries(self) -> dict[str, list[Query]]:
        """Queries by "train", "dev" and, if there are such, "test"."""
        ...

    def read_qrels(self, queries: dict[str, list[Query]], passage_ids: Container[str]) -> Qrels:
        """Judgements of all splits, each of a known query and a known passage."""
        ...


def find_file(folder: Path, name: str) -> Path | None:
    """Returns the path of a file, compressed or not; None if there is neither."""
    paths = (folder / name, folder / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def read_known_qrels(
    path: Path, query_ids: Container[str], split: str, passage_ids: Container[str], collection: Path
) -> Qrels:
    """Reads the judgements of a split. Raises `FormatError` if they name unknown texts."""
    unknown: list[tuple[str, str]] = []

    def known() -> Iterator[Judgement]:
        for judgement in iter_qrels(path):
            if judgement.query_id not in query_ids:
                raise FormatError(
                    f"{judgement.where}: query {judgement.query_id} is not in the {split} "
                    "queries: take queries and qrels of the same set"
                )
            if judgement.passage_id not in passage_ids:
                unknown.append((judgement.where, judgement.passage_id))
            yield judgement

    qrels = collect_qrels(known(), str(path))
    if unknown:
        names = listed(passage_id for _, passage_id in unknown)
        raise FormatError(
            f"{unknown[0][0]}: passages that {collection} does not hold: {names}: "
            "take the collection and the qrels of the same set"
        )
    return qrels
