"""Passages and queries in Parquet files: one row each, with columns as the field calls them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from dipair_index.errors import FormatError
from dipair_index.formats.column_names import ID_COLUMNS, TEXT_COLUMNS

_SUFFIX = ".parquet"


def parquet_files(source: str | Path, stem: str) -> list[Path]:
    """Returns the Parquet files of a source, in the order of their names; none if it is another.

    They are the file itself; of a folder, `stem.parquet`, those in `stem/`, or those in itself.
    """
    path = Path(source)
    if path.suffix == _SUFFIX and not path.is_dir():
        return [path]
    if str(source) in ("", "-") or not path.is_dir():
        return []
    whole = path / f"{stem}{_SUFFIX}"
    return [whole] if whole.is_file() else _in(path / stem) or _in(path)


def parquet_records(files: Sequence[Path]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields the row of each record for messages, its id, and its other columns by name.

    The text is in `text`, whatever its column is called. Columns without a value are left out;
    dates and decimal numbers become strings.

    Raises `FormatError` if a file is missing, damaged, or has no column of ids or of texts, or if
    an id or a value is of a type that is not understood.
    """
    from dipair_index.formats.tables import iter_tables

    for path in files:
        number = 0
        for table in iter_tables(path):
            id_column, text_column = _columns(path, table.column_names)
            for row in table.to_pylist():
                number += 1
                where = f"row {number} of {path}"
                record_id = row.pop(id_column)
                if isinstance(record_id, bool) or not isinstance(record_id, str | int):
                    raise FormatError(
                        f"{where}: expected a string or a whole number in the column "
                        f"{id_column}, got {record_id!r}"
                    )
                text = row.pop(text_column)
                fields = {
                    name: _plain(value, f"{where}: the column {name}")
                    for name, value in row.items()
                    if value is not None
                }
                yield where, str(record_id), {**fields, "text": text}


def _columns(path: Path, names: Sequence[str]) -> tuple[str, str]:
    """Returns the names of the columns of ids and of texts."""
    found = []
    for usual, known in ((("_id", "id"), ID_COLUMNS), (("text",), TEXT_COLUMNS - {"title"})):
        column = next((name for name in usual if name in names), None)
        others = [name for name in names if name.casefold() in known]
        if column is None and len(others) != 1:
            raise FormatError(
                f"{path} has the columns {', '.join(names)}: expected one of ids (id or _id) and "
                "one of texts (text)"
            )
        found.append(column or others[0])
    return found[0], found[1]


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, bytes):
        raise FormatError(f"{where} holds bytes, which metadata cannot: leave the column out")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


def _in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{_SUFFIX}") if path.is_file())
