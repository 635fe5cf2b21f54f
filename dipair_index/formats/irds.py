"""Documents, queries and judgements of ir_datasets, which are named `irds:ID`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dipair_index.errors import DownloadError, FormatError
from dipair_index.optional import require
from dipair_index.words import reason

PREFIX = "irds:"


def is_irds(source: str | Path) -> bool:
    """Whether a source names a dataset of ir_datasets."""
    return str(source).startswith(PREFIX)


def iter_documents(source: str | Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields each document's position for messages, its id, and its other fields by name.

    `text` is the document's field of this name or, without one, the text by which ir_datasets says
    that it is known; other fields that JSON holds are kept unless they are part of it.

    Raises `FormatError` if there is no such dataset or if it has no documents, `DownloadError` if
    it cannot be fetched, and `MissingPackageError` if ir_datasets is not installed.
    """
    for number, document in enumerate(_records(source, "docs"), start=1):
        fields = document._asdict()
        document_id = fields.pop("doc_id")
        if not isinstance(fields.get("text"), str):
            text = document.default_text()
            fields = {name: value for name, value in fields.items() if str(value) not in text}
            fields["text"] = text
        kept = {name: value for name, value in fields.items() if _is_plain(value)}
        yield f"document {number} of {source}", document_id, kept


def iter_queries(source: str | Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields each query's position for messages, its id, and its text; raises as for documents."""
    for number, query in enumerate(_records(source, "queries"), start=1):
        yield f"query {number} of {source}", query.query_id, {"text": query.default_text()}


def iter_judgements(source: str | Path) -> Iterator[tuple[str, str, int, str]]:
    """Yields query id, document id, relevance, and the position; raises as for documents."""
    for number, judged in enumerate(_records(source, "qrels"), start=1):
        where = f"judgement {number} of {source}"
        yield judged.query_id, judged.doc_id, int(judged.relevance), where


def _records(source: str | Path, kind: str) -> Iterator[Any]:
    require("irds", "a dataset of ir_datasets")
    import ir_datasets

    name = str(source).removeprefix(PREFIX)
    try:
        dataset = ir_datasets.load(name)
    except KeyError as error:
        raise FormatError(
            f"ir_datasets has no dataset {name!r}: take an id from https://ir-datasets.com"
        ) from error
    if not getattr(dataset, f"has_{kind}")():
        raise FormatError(
            f"{source} holds no {kind}: name a dataset that does, such as a part of it"
        )
    with _fetching(source):
        yield from getattr(dataset, f"{kind}_iter")()


@contextmanager
def _fetching(source: str | Path) -> Iterator[None]:
    """Raises what ir_datasets raises while it downloads and unpacks as `DownloadError`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise DownloadError(
            f"{source} cannot be fetched ({reason(error)}): run it again with a network. "
            "https://ir-datasets.com says what each dataset needs"
        ) from error


def _is_plain(value: Any) -> bool:
    """Whether JSON holds the value as it is."""
    if isinstance(value, (list, tuple)):
        return all(isinstance(each, (str, int, float)) for each in value)
    return isinstance(value, (str, int, float))
