"""Arrays on disk, computed chunk by chunk and resumable."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from dipair_index.files import unwritable
from dipair_index.formats.lines import writing


class Chunk(Protocol):
    """Something with a length: texts, vectors."""

    def __len__(self) -> int: ...


ChunkT = TypeVar("ChunkT", bound=Chunk)


def fill_rows(
    path: Path,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    *,
    key: Mapping[str, Any],
    chunks: Iterable[ChunkT],
    compute: Callable[[ChunkT], npt.NDArray[Any]],
    report: Callable[[int], None],
) -> npt.NDArray[Any]:
    """Returns a read-only map of `path`, whose rows are `compute` of each chunk in order.

    Rows that `path` holds already are kept if they were computed under the same `key`, which a
    note next to it names, and their chunks are skipped. Reports the number of rows so far. Raises
    `WriteError` if the file cannot be written.
    """
    note = path.with_suffix(".json")
    key = json.loads(json.dumps({**key, "shape": shape, "dtype": np.dtype(dtype).str}))
    done = _rows_done(path, note, key)
    report(done)
    try:
        if not done:
            # not written over: the file may be a hard link to one that is in use
            path.unlink(missing_ok=True)
            note.unlink(missing_ok=True)
        if done < shape[0]:
            mode: Any = "r+" if done else "w+"
            array = np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
            _take_room(path)
            start = 0
            for chunk in chunks:
                stop = start + len(chunk)
                if stop > done:
                    array[start:stop] = compute(chunk)
                    array.flush()
                    with writing(note) as target:
                        target.write(json.dumps({"key": key, "rows": stop}) + "\n")
                    report(stop)
                start = stop
    except OSError as error:
        raise unwritable(path, error) from error
    return np.lib.format.open_memmap(path, mode="r")


def _take_room(path: Path) -> None:
    # a disk that is full would end the process when the map is written to, without a word
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _rows_done(path: Path, note: Path, key: Mapping[str, Any]) -> int:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        return int(found["rows"]) if found["key"] == key and path.is_file() else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # no note, or one that is not ours: start again
