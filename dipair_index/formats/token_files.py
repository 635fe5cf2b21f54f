"""Token embeddings that were made elsewhere, by item id: .npy, .safetensors or Parquet.

    images.npy             (items, kept, width), with the ids in images.ids.txt, one a line
    images.safetensors     the same as its tensor "tokens", with the ids in images.ids.txt
    images.parquet         a column "id" of strings, and a column "tokens": a list of tokens, which
                           are lists of `width` numbers; an item may have fewer tokens than another

Numbers are floating-point or whole numbers of any size, and become float32. A token of zeros is
absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dipair_index.digests import short_digest
from dipair_index.errors import FormatError
from dipair_index.formats.lines import iter_lines
from dipair_index.formats.tables import read_table
from dipair_index.optional import require
from dipair_index.records import FloatArray, Passage

TENSOR = "tokens"
"""The name of the tensor in a .safetensors file, and of the column in a Parquet file."""
SUFFIXES = (".npy", ".safetensors", ".parquet")
ITEMS_AT_ONCE = 4096


class GivenTokens:
    """The token embeddings of items by id, each (kept, width).

    Raises `FormatError` if ids and tokens do not fit each other, if an id is empty or repeated, or
    if a number is not finite; the message names `source` and the row, counted from 1.
    """

    def __init__(self, ids: Sequence[str], tokens: npt.NDArray[Any], *, source: str) -> None:
        if tokens.ndim != 3 or 0 in tokens.shape or tokens.dtype.kind not in "fiu":
            raise FormatError(
                f"{source} holds {tokens.dtype} of the shape {tokens.shape}: expected numbers of "
                "the shape (items, kept, width)"
            )
        if len(ids) != len(tokens):
            raise FormatError(
                f"{source} holds the tokens of {len(tokens):,} items, and there are {len(ids):,} "
                "ids: give one id an item, in the same order"
            )
        self.source, self.ids = source, list(ids)
        self.kept, self.width = map(int, tokens.shape[1:])
        self._tokens = tokens
        self._rows: dict[str, int] = {}
        for row, name in enumerate(self.ids):
            if not name or self._rows.setdefault(name, row) != row:
                raise FormatError(
                    f"row {row + 1} of {source} has "
                    + (f"the id {name!r} of row {self._rows[name] + 1}" if name else "no id")
                    + ": give every item an id of its own"
                )
        self.digest = short_digest(self._checked())

    @classmethod
    def read(cls, path: str | Path) -> GivenTokens:
        """Opens a file; a .npy file is not read as a whole, and may be larger than memory.

        Raises `FormatError` as the class does, and if the file is missing, damaged or of another
        kind; `MissingPackageError` if it is .safetensors and that package is not installed.
        """
        path = Path(path)
        if path.suffix not in SUFFIXES:
            raise FormatError(
                f"{path} is of an unknown kind: expected token embeddings in {', '.join(SUFFIXES)}"
            )
        if not path.is_file():
            raise FormatError(f"there is no file {path}: check the path")
        if path.suffix == ".parquet":
            return cls(*_of_parquet(path), source=str(path))
        tokens = _of_npy(path) if path.suffix == ".npy" else _of_safetensors(path)
        ids = path.with_suffix(".ids.txt")
        if not ids.is_file():
            raise FormatError(
                f"{path} has no ids: write them into {ids}, one a line in the order of the items"
            )
        return cls([text for _, text in iter_lines(str(ids))], tokens, source=str(path))

    def rows(self, ids: Sequence[str]) -> list[int]:
        """Returns the rows of items; raises `FormatError`, which names the first absent one."""
        absent = [name for name in ids if name not in self._rows]
        if absent:
            raise FormatError(
                f"{self.source} has no item {absent[0]!r} (absent: {len(absent):,} of "
                f"{len(ids):,}): add it, or name the file that has it"
            )
        return [self._rows[name] for name in ids]

    def read_rows(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> FloatArray:
        """Returns the tokens of rows in float32, (rows, kept, width)."""
        found: FloatArray = np.asarray(self._tokens[np.asarray(rows, np.int64)], np.float32)
        return found

    def passages(self) -> Iterator[Passage]:
        """Yields the items as passages whose text is their id, for the building of an index."""
        return (Passage(name, name) for name in self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def _checked(self) -> Iterator[bytes]:
        """Yields ids and numbers; raises `FormatError` at one that is no float32 number."""
        yield "\n".join(self.ids).encode()
        for start in range(0, len(self), ITEMS_AT_ONCE):
            with np.errstate(over="ignore"):
                some = np.asarray(self._tokens[start : start + ITEMS_AT_ONCE], np.float32)
            if len(wrong := np.flatnonzero(~np.isfinite(some).all((1, 2)))):
                row = start + int(wrong[0])
                raise FormatError(
                    f"row {row + 1} of {self.source}, item {self.ids[row]!r}, holds a number that "
                    "is not finite in float32: make its tokens again"
                )
            yield some.tobytes()


def _of_npy(path: Path) -> npt.NDArray[Any]:
    try:
        tokens: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FormatError(f"{path} is not a .npy file or is damaged: make it again") from error
    return tokens


def _of_safetensors(path: Path) -> npt.NDArray[Any]:
    require("torch", f"reading {path}", "safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            names = sorted(file.keys())
            if TENSOR in names:
                tokens: npt.NDArray[Any] = file.get_tensor(TENSOR)
                return tokens
    # numpy has no bfloat16
    except (OSError, SafetensorError, TypeError) as error:
        raise FormatError(
            f"{path} cannot be read ({error}): save its tokens again, in float32 or float16"
        ) from error
    raise FormatError(
        f"{path} holds {', '.join(names) or 'nothing'}: expected a tensor called {TENSOR}, "
        "(items, kept, width)"
    )


def _of_parquet(path: Path) -> tuple[list[str], FloatArray]:
    """Returns ids and tokens; items of fewer tokens are padded with zeros."""
    table = read_table(path, ["id", TENSOR])
    ids, column = table["id"].to_pylist(), table[TENSOR].combine_chunks()
    if not all(isinstance(name, str) for name in ids):
        raise FormatError(f"{path} has ids that are no strings, {table['id'].type}: convert them")
    if not (_is_list(column.type) and _is_list(column.type.value_type)):
        raise FormatError(
            f"the column {TENSOR} of {path} is {column.type}: expected lists of tokens, which are "
            "lists of numbers"
        )
    counts = _lengths(column)
    inner = column.flatten()
    widths = _lengths(inner)
    numbers = inner.flatten()
    width = int(widths[0]) if len(widths) else 0
    uneven = np.flatnonzero(widths != width)
    missing = np.flatnonzero(counts == 0)
    if len(missing) or len(uneven):
        row = missing[0] if len(missing) else np.searchsorted(counts.cumsum(), uneven[0], "right")
        found = 0 if len(missing) else widths[uneven[0]]
        raise FormatError(
            f"row {int(row) + 1} of {path}, item {ids[int(row)]!r}, has "
            + ("no tokens" if len(missing) else f"a token of {found} numbers, not {width}")
            + f": give every item one token or more, each of {width or 'as many'} numbers"
        )
    if numbers.null_count or not _is_number(numbers.type):
        raise FormatError(
            f"the column {TENSOR} of {path} holds {numbers.type} with {numbers.null_count} nulls: "
            "expected numbers alone"
        )
    kept = int(counts.max(initial=0))
    tokens = np.zeros((len(ids), kept, width), np.float32)
    there = np.arange(kept) < counts[:, None]
    tokens[there] = numbers.to_numpy(zero_copy_only=False).reshape(-1, width)
    return ids, tokens


def _lengths(lists: pa.Array) -> npt.NDArray[np.int64]:
    """Returns the length of each list; 0 for a null."""
    if pa.types.is_fixed_size_list(lists.type):
        return np.where(lists.is_null().to_numpy(False), 0, lists.type.list_size).astype(np.int64)
    lengths: npt.NDArray[Any] = lists.value_lengths().fill_null(0).to_numpy(False)
    return lengths.astype(np.int64)


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
