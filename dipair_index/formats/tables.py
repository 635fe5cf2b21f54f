"""Parquet tables of pairs, queries and passages, with the same bytes for the same rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dipair_index.errors import FormatError
from dipair_index.files import replacing

ROWS_PER_GROUP = 65_536


def write_table(table: pa.Table, path: Path) -> None:
    """Writes one table; `path` appears only when it is complete."""
    write_tables([table], path, table.schema)


def write_tables(tables: Iterable[pa.Table], path: Path, schema: pa.Schema) -> int:
    """Concatenates tables of one schema in a file, and returns the number of rows.

    Row groups end where the tables end, so the same tables give the same bytes.
    """
    rows = 0
    with replacing(path) as unfinished, _writer(unfinished, schema) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
            rows += table.num_rows
    return rows


def table_bytes(table: pa.Table) -> bytes:
    """Returns a table as the bytes of the file that `write_table` writes."""
    sink = pa.BufferOutputStream()
    with _writer(sink, table.schema) as writer:
        writer.write_table(table, row_group_size=ROWS_PER_GROUP)
    return bytes(sink.getvalue())


def _writer(target: Any, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(target, schema, compression="zstd", write_page_checksum=True)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Returns a table, or some columns of it.

    Raises `FormatError` if the file is missing, damaged or lacks those columns.
    """
    with _opened(path, columns) as file:
        try:
            return file.read(columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise damaged_table(path, error) from error


def iter_tables(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yields a table's row groups, so that a large one need not fit into memory."""
    with _opened(path, columns) as file:
        for group in range(file.num_row_groups):
            try:
                yield file.read_row_group(group, columns=columns)
            except (OSError, pa.ArrowException) as error:
                raise damaged_table(path, error) from error


def _opened(path: Path, columns: Sequence[str] | None) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise FormatError(f"there is no file {path}: check the path") from error
    except (OSError, pa.ArrowException) as error:
        raise damaged_table(path, error) from error
    missing = [name for name in columns or () if name not in file.schema_arrow.names]
    if missing:
        file.close()
        raise FormatError(
            f"{path} has the columns {', '.join(file.schema_arrow.names)}, "
            f"expected {', '.join(missing)} too"
        )
    return file


def damaged_table(path: str | Path, error: Exception) -> FormatError:
    """Returns the error of a file that pyarrow cannot read as Parquet."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return FormatError(f"{path} is not a Parquet file or is damaged: make it again ({reason})")
