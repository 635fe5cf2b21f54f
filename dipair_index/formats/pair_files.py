"""Files of pairs of ids, read block by block: Parquet, or TSV of two ids a line without a header.

Blocks are numbered through all files in the order of their names, and none spans two files. A block
is found without reading the ones before it, so that any machine can read any block.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from dipair_index.digests import checksum
from dipair_index.errors import FormatError
from dipair_index.formats.places import Place
from dipair_index.formats.tables import damaged_table
from dipair_index.words import reason

LEFT, RIGHT = "left", "right"
ID_SCHEMA = pa.schema([(LEFT, pa.string()), (RIGHT, pa.string())])
SAMPLE_BYTES = 2**20
"""The beginning of a TSV file, from which the length of its lines is taken."""
ENDS_BYTES = 2**16
"""The bytes at the beginning and the end of a file by which it is recognised."""
ROWS_AT_ONCE = 2**16
_PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class PairFile:
    """One file: its name below the place, its bytes, and its blocks.

    `step` is the rows of a block of Parquet, or the bytes of a block of TSV; `pairs` is an estimate
    for TSV beyond its first `SAMPLE_BYTES`.
    """

    name: str
    size: int
    pairs: int
    step: int
    blocks: int
    schema: pa.Schema | None  # None for TSV


class PairFiles:
    """The pairs of a file or a folder, at a path or URL, in blocks of about `block_pairs`.

    Raises `FormatError` if there is no pair file, if one is damaged or lacks a column, or if files
    have other columns than the first.
    """

    def __init__(self, source: str | Path, block_pairs: int) -> None:
        self.place = Place(source)
        sizes = self.place.sizes()
        names = [name for name in sizes if name == "" or _is_pair_file(name)]
        if not names:
            raise FormatError(
                f"{source} holds no pair file: expected files that end in .parquet or .tsv"
            )
        self.files = [self._file(name, sizes[name], block_pairs) for name in names]
        self.schema = self.files[0].schema or ID_SCHEMA
        for file in self.files:
            if (file.schema or ID_SCHEMA) != self.schema:
                raise FormatError(
                    f"{self.place.name_of(file.name)} has other columns than "
                    f"{self.place.name_of(self.files[0].name)}: give all pair files the same"
                )
        self._ends = list(accumulate(file.blocks for file in self.files))
        if not self.blocks:
            raise FormatError(f"there is no pair in {source}: expected at least one")

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return self._ends[-1]

    @property
    def pairs(self) -> int:
        """The number of pairs; an estimate if there are long TSV files."""
        return sum(file.pairs for file in self.files)

    def pairs_in(self, block: int) -> int:
        """Returns the pairs of a block; of long TSV files, an estimate."""
        file, start, _ = self._within(block)
        if file.schema is None:
            return min(file.step, file.size - start) * file.pairs // file.size
        return min(file.step, file.pairs - start)

    def digest(self) -> str:
        """Returns a digest of the names, the sizes, and the two ends of all files."""
        lines = []
        for file in self.files:
            with self.place.open(file.name) as opened, self.place.sentences("read", file.name):
                ends = opened.read_at(ENDS_BYTES, 0)
                ends += opened.read_at(ENDS_BYTES, max(0, file.size - ENDS_BYTES))
            lines.append(f"{file.name}\t{file.size}\t{checksum(ends)}\n")
        return checksum("".join(lines).encode())

    def read(self, block: int) -> pa.Table:
        """Returns the rows of a block, with all their columns.

        Raises `FormatError`, which names the row, if an id is missing or a line has not two fields.
        """
        file, start, stop = self._within(block)
        if file.schema is None:
            table = self._tsv(block, file, start, stop)
        else:
            table = pa.Table.from_batches(self._batches(file, start, stop), schema=file.schema)
        for column in (LEFT, RIGHT):
            is_empty = pc.fill_null(pc.equal(pc.binary_length(texts(table[column])), 0), True)
            if (row := pc.index(is_empty, True).as_py()) >= 0:
                raise FormatError(
                    f"{self.row_name(block, row)} has no {column} id: give every row one"
                )
        return table

    def row_name(self, block: int, row: int) -> str:
        """Returns the words for a row of a block: "row 3 of pairs.parquet", counted from 1."""
        file, start, _ = self._within(block)
        name = self.place.name_of(file.name)
        if file.schema is not None:
            return f"row {start + row + 1:,} of {name}"
        before = 0
        with self.place.open(file.name) as opened:
            first = _line_start(opened, start)
            for at in range(0, first, SAMPLE_BYTES):
                before += opened.read_at(min(SAMPLE_BYTES, first - at), at).count(b"\n")
        return f"line {before + row + 1:,} of {name}"

    def _within(self, block: int) -> tuple[PairFile, int, int]:
        """Returns the file of a block, and the rows or bytes of it that are the block's."""
        number = bisect_right(self._ends, block)
        file = self.files[number]
        first = self._ends[number] - file.blocks
        start = (block - first) * file.step
        return file, start, start + file.step

    def _file(self, name: str, size: int, block_pairs: int) -> PairFile:
        with self.place.open(name) as opened, self.place.sentences("read", name):
            beginning = opened.read_at(SAMPLE_BYTES, 0)
            if beginning[:4] != b"PAR1" and not (name or self.place.path).endswith(_PARQUET):
                if beginning[:2] == b"\x1f\x8b":
                    raise FormatError(
                        f"{self.place.name_of(name)} is compressed with gzip, in which no block "
                        "can be found: unpack it, or write Parquet"
                    )
                return _tsv_file(name, size, beginning, block_pairs)
            schema, rows = self._described(name, opened)
        for column in (LEFT, RIGHT):
            if column not in schema.names or not _is_id_type(schema.field(column).type):
                raise FormatError(
                    f"{self.place.name_of(name)} has the columns {', '.join(schema.names)}, "
                    f"expected {LEFT} and {RIGHT} with ids"
                )
        return PairFile(name, size, rows, block_pairs, -(-rows // block_pairs), schema)

    def _described(self, name: str, opened: Any) -> tuple[pa.Schema, int]:
        with self._damage(name), pq.ParquetFile(opened) as file:
            return file.schema_arrow.remove_metadata(), file.metadata.num_rows

    @contextmanager
    def _damage(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise damaged_table(self.place.name_of(name), error) from error

    def _batches(self, file: PairFile, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Yields the rows from `start` to `stop`, with only some of them in memory at a time."""
        opened = self.place.open(file.name)
        with (
            opened,
            self._damage(file.name),
            pq.ParquetFile(opened, page_checksum_verification=True) as table,
        ):
            at, groups = 0, []
            for group in range(table.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                if at + rows > start and at < stop:
                    groups.append((group, at))
                at += rows
            at = groups[0][1]
            chosen = [group for group, _ in groups]
            for batch in table.iter_batches(ROWS_AT_ONCE, chosen, use_threads=False):
                first, last = max(start - at, 0), min(stop - at, len(batch))
                if first < last:
                    yield batch.slice(first, last - first).replace_schema_metadata()
                at += len(batch)
                if at >= stop:
                    return

    def _tsv(self, block: int, file: PairFile, start: int, stop: int) -> pa.Table:
        with self.place.open(file.name) as opened, self.place.sentences("read", file.name):
            first, last = _line_start(opened, start), _line_start(opened, stop)
            data = opened.read_at(last - first, first)
        if not data:
            return ID_SCHEMA.empty_table()
        wrong: list[Any] = []

        def keep(row: Any) -> str:
            wrong.append(row)
            return "skip"

        try:
            table = csv.read_csv(
                pa.BufferReader(data),
                csv.ReadOptions(
                    use_threads=False, block_size=len(data) + 1, column_names=[LEFT, RIGHT]
                ),
                csv.ParseOptions(
                    delimiter="\t",
                    quote_char=False,
                    ignore_empty_lines=False,
                    invalid_row_handler=keep,
                ),
                csv.ConvertOptions(
                    column_types={LEFT: pa.string(), RIGHT: pa.string()}, strings_can_be_null=False
                ),
            )
        except pa.ArrowException as error:
            name = self.place.name_of(file.name)
            raise FormatError(
                f"{name} is not UTF-8 text with two ids a line: {reason(error)}"
            ) from error
        if wrong:
            raise FormatError(
                f"{self.row_name(block, wrong[0].number - 1)}: expected 2 tab-separated ids, got "
                f"{wrong[0].actual_columns}"
            )
        return table


def texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns a column of ids, which may be integers or a dictionary, as plain strings."""
    return column if column.type == pa.string() else column.cast(pa.string())


def _is_pair_file(name: str) -> bool:
    hidden = any(part.startswith((".", "_")) for part in name.split("/"))
    return name.endswith((*_PARQUET, ".tsv")) and not hidden


def _is_id_type(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = pa.types.is_string(value) or pa.types.is_large_string(value)
    return bool(is_text or pa.types.is_integer(value))


def _tsv_file(name: str, size: int, beginning: bytes, block_pairs: int) -> PairFile:
    lines = beginning.count(b"\n") + (size == len(beginning) and not beginning.endswith(b"\n"))
    if not size:
        return PairFile(name, 0, 0, 1, 0, None)
    step = max(1, block_pairs * len(beginning) // max(lines, 1))
    pairs = lines if size == len(beginning) else size * lines // len(beginning)
    return PairFile(name, size, pairs, step, -(-size // step), None)


def _line_start(opened: Any, offset: int) -> int:
    """Returns the offset of the first line that begins at `offset` or after it."""
    size = opened.size()
    at = offset - 1
    while 0 <= at < size:
        data = opened.read_at(ENDS_BYTES, at)
        if (end := data.find(b"\n")) >= 0:
            return int(at + end + 1)
        at += len(data)
    return int(min(max(at, 0), size))
