"""Collections of passages and queries, read and written as streams of records.

They are TSV (`id TAB text`), JSONL (`id` or `_id`, `title`, `text`, more fields), Parquet with such
columns, or a BEIR folder. Every reader takes a path, compressed with gzip or not, "-" for standard
input, `irds:ID` for a dataset of ir_datasets or `hf:OWNER/NAME` for one of the hub, and names file
and line in its errors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from dipair_index.errors import FormatError
from dipair_index.formats.column_names import ID_COLUMNS, TEXT_COLUMNS
from dipair_index.formats.hub_datasets import local_copy
from dipair_index.formats.irds import is_irds, iter_documents, iter_queries
from dipair_index.formats.lines import iter_lines, source_name, writing
from dipair_index.formats.parquet_records import parquet_files, parquet_records
from dipair_index.records import Passage, Query


def read_passages(source: str | Path) -> Iterator[Passage]:
    """Yields the passages of a TSV, JSONL or Parquet file, a folder, a dataset by name, or "-".

    Raises `FormatError` if a line is not a passage with an id of its own, or if there are none.
    """
    for where, passage_id, fields in _iter_records(source, "corpus"):
        title, text = fields.pop("title", None) or "", fields.pop("text", None)
        if not isinstance(text, str) or not isinstance(title, str):
            field = "title" if isinstance(text, str) else "text"
            raise FormatError(f'{where}: expected a string in the field "{field}"')
        if isinstance(fields.get("metadata"), dict):  # where BEIR keeps what else it knows
            fields = {**fields.pop("metadata"), **fields}
        yield Passage(passage_id, text, title, fields)


def read_queries(source: str | Path) -> Iterator[Query]:
    """Yields the queries of the same sources.

    Raises `FormatError` as `read_passages` does, and if a query has no text.
    """
    for where, query_id, fields in _iter_records(source, "queries"):
        text = fields.get("text")
        if not isinstance(text, str) or not text.strip():
            raise FormatError(f"{where}: the query {query_id} has no text: remove or fix the line")
        yield Query(query_id, text)


def write_passages(passages: Iterable[Passage], path: Path) -> None:
    """Writes JSONL if the name says `.jsonl`, else TSV, compressed if it ends in `.gz`.

    Raises `FormatError` if TSV cannot hold a passage: one with a title or metadata, or with tabs
    or line breaks in its text.
    """
    with writing(path) as target:
        for passage in passages:
            if is_jsonl(path):
                record = {"id": passage.passage_id, "title": passage.title, "text": passage.text}
                target.write(_json_line({**passage.metadata, **record}, passage.passage_id))
            elif passage.title or passage.metadata:
                raise FormatError(
                    f"passage {passage.passage_id} has a title or metadata, which TSV cannot hold: "
                    f"name the file {path.stem}.jsonl"
                )
            else:
                target.write(_tsv_line(passage.passage_id, passage.text))


# ==== What readers share ====


_Record: TypeAlias = tuple[str, str, dict[str, Any]]
"""Where a record is, for messages, its id, and its other fields by name."""


def _iter_records(source: str | Path, kind: str) -> Iterator[_Record]:
    """Yields the records of a source, each with an id of its own; `kind` is corpus or queries."""
    seen: set[str] = set()
    for where, record_id, fields in _unchecked_records(source, kind):
        if not record_id:
            raise FormatError(f"{where}: the id is empty: give every line an id of its own")
        if record_id.splitlines() != [record_id] or "\t" in record_id:
            raise FormatError(
                f"{where}: the id {record_id!r} holds a tab or a line break: give it another id"
            )
        if record_id in seen:
            raise FormatError(
                f"{where}: the id {record_id} was used before: give every line an id of its own"
            )
        seen.add(record_id)
        yield where, record_id, fields
    if not seen:
        raise FormatError(f"{source_name(source)} holds no record: expected one a line")


def _unchecked_records(source: str | Path, kind: str) -> Iterator[_Record]:
    if is_irds(source):
        return iter_documents(source) if kind == "corpus" else iter_queries(source)
    local = local_copy(source, kind)
    if files := parquet_files(local, kind):
        return parquet_records(files)
    return _line_records(_file_of(local, f"{kind}.jsonl"))


def _line_records(source: str | Path) -> Iterator[_Record]:
    jsonl, is_first = is_jsonl(source), True
    for number, line in iter_lines(source):
        where = f"line {number} of {source_name(source)}"
        if is_first and str(source) == "-":
            jsonl = line.startswith("{")
        if jsonl:
            record_id, fields = _from_json(line, where)
        else:
            record_id, fields = _from_tsv(line, where, is_first=is_first)
        is_first = False
        yield where, record_id, fields


def _from_tsv(line: str, where: str, *, is_first: bool) -> tuple[str, dict[str, Any]]:
    fields = line.split("\t")
    if is_first and _is_header(fields):
        raise FormatError(
            f"{where} is a header line ({', '.join(fields)}), expected an id, a tab and a text: "
            "remove it"
        )
    if len(fields) != 2:
        raise FormatError(
            f"{where}: expected 2 tab-separated fields (id and text), got {len(fields)}"
        )
    return fields[0], {"text": fields[1]}


def _is_header(fields: Sequence[str]) -> bool:
    """Whether the fields of a first line name columns: one of ids and one of texts."""
    names = {re.sub(r"[\W_]+", "_", field.casefold()).strip("_") for field in fields}
    return bool(names & ID_COLUMNS and names & TEXT_COLUMNS)


def _from_json(line: str, where: str) -> tuple[str, dict[str, Any]]:
    record = json_object(line, where)
    record_id = record.pop("_id" if "_id" in record else "id", None)
    if isinstance(record_id, bool) or not isinstance(record_id, str | int):
        raise FormatError(f'{where}: expected a string or a whole number in the field "id"')
    return str(record_id), record


def _finite(text: str) -> float:
    """Parses a number of JSON; Python would read 1e999 as infinity."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return value


# NaN and Infinity, as pandas writes them, are no JSON: nobody could read what is printed of them
_JSON = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


def json_object(line: str, where: str) -> dict[str, Any]:
    """Returns the object in a line of JSONL. Raises `FormatError` if there is none."""
    try:
        record = _JSON.decode(line)
        if "\\u" in line:
            json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise FormatError(
            f"{where}: the JSON holds half of a surrogate pair, which is no character: fix the line"
        ) from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: expected a JSON object, got invalid JSON ({error})") from error
    if not isinstance(record, dict):
        raise FormatError(f"{where}: expected a JSON object, got {type(record).__name__}")
    return record


def is_jsonl(source: str | Path) -> bool:
    """Whether a file's name says that it holds JSON lines."""
    return Path(str(source).removesuffix(".gz")).suffix in {".jsonl", ".json", ".ndjson"}


def _file_of(source: str | Path, beir_name: str) -> str | Path:
    """The file itself, or the one in a BEIR folder."""
    folder = Path(source)
    if str(source) in ("", "-") or not folder.is_dir():
        return source
    for name in (beir_name, f"{beir_name}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise FormatError(
        f"{source} is a directory without {beir_name}: give the file itself, a BEIR folder, or one "
        "of Parquet files"
    )


def _json_line(record: dict[str, Any], record_id: str) -> str:
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise FormatError(f"the passage {record_id} cannot be written as JSON: {error}") from error


def _tsv_line(record_id: str, text: str) -> str:
    if any(character in record_id + text for character in "\t\n\r"):
        raise FormatError(
            f"the text of {record_id} holds a tab or a line break, which TSV cannot: write .jsonl"
        )
    return f"{record_id}\t{text}\n"
