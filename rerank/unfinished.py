"""An unfinished part of an index, with a record of what is durable, so that a build can resume."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dipair_index.digests import TextsDigest
from dipair_index.errors import DirectoryError
from dipair_index.files import write_whole
from dipair_index.records import FloatArray, Passage
from dipair_index.stores.index_directory import PartLayout
from dipair_index.stores.packed_ids import PackedIds
from dipair_index.stores.part import remove_part
from dipair_index.words import counted

PASSAGES_AT_ONCE = 10_000
DISPOSABLE = "serve"
"""The command of a part that is never resumed: a server told its client that nothing was stored."""


class BuildProgress(NamedTuple):
    """The settings of an unfinished part, and counts of the passages that are stored."""

    settings: dict[str, Any]
    passages: int
    digest: str
    id_bytes: int
    truncated: int
    rows: int = 0  # more than passages if some have windows; earlier versions did not count them


class UnfinishedPart:
    """The ids and vectors stored so far, and `progress.json`, which counts them.

    Data is flushed to disk before it is counted, so a build may end at any moment. With a
    `vector_dim` of 0, no vectors are stored. The caller must hold the index's `IndexWriter`.
    """

    def __init__(self, part: PartLayout, settings: dict[str, Any], *, vector_dim: int) -> None:
        self.part = part
        self._vector_dim = vector_dim
        self._digest = TextsDigest()
        self.progress = BuildProgress(settings, 0, self._digest.hexdigest(), 0, 0)

    @classmethod
    def open(
        cls,
        part: PartLayout,
        settings: dict[str, Any],
        *,
        vector_dim: int,
        store_url: str = "",
        resume: bool,
        overwrite: bool,
    ) -> UnfinishedPart:
        """Resumes an unfinished part, or begins a new one, with its tokens below `store_url`.

        Raises `DirectoryError` if there is an unfinished part and neither `resume` nor `overwrite`,
        or if it was begun with other settings.
        """
        begun = read_progress(part)
        unfinished = cls(part, settings, vector_dim=vector_dim)
        if begun and begun.passages and resume:
            unfinished._resume(begun)
        elif begun and begun.passages and not overwrite and not _is_disposable(begun):
            raise DirectoryError(
                f"{part.root} holds {counted(begun.passages, 'passage')} of an interrupted "
                f"{begun.settings['command']}: pass --resume to continue it, or --overwrite to "
                "start over"
            )
        else:
            remove_part(part)
            part.create(store_url)
            part.progress.mkdir()
            unfinished._ids.write_bytes(b"")
            unfinished._vectors.write_bytes(b"")
            unfinished._save()
        return unfinished

    def _resume(self, begun: BuildProgress) -> None:
        for name, asked in self.progress.settings.items():
            if begun.settings.get(name) != asked:
                raise DirectoryError(
                    f"the unfinished part in {self.part.root} was begun with "
                    f"{name} {begun.settings.get(name)}, not {asked}: resume it with the same "
                    "settings, or pass --overwrite without --resume to start over"
                )
        self.progress = begun = begun._replace(rows=begun.rows or begun.passages)
        vector_bytes = 4 * self._vector_dim * begun.rows
        for file, size in ((self._ids, begun.id_bytes), (self._vectors, vector_bytes)):
            if not file.is_file() or file.stat().st_size < size:
                raise self.lost_data()
            # data after the last count is removed
            os.truncate(file, size)

    def skip(self, passages: Iterator[Passage]) -> None:
        """Skips the passages that are stored; raises `DirectoryError` if they are others."""
        left = self.progress.passages
        while left and (known := list(islice(passages, min(left, PASSAGES_AT_ONCE)))):
            self._count_in(known)
            left -= len(known)
        if self._digest.hexdigest() != self.progress.digest:
            raise DirectoryError(
                f"the corpus does not begin with the {counted(self.progress.passages, 'passage')} "
                f"of the unfinished part in {self.part.root}: give the same corpus, or pass "
                "--overwrite without --resume to start over"
            )

    def count(
        self,
        passages: Sequence[Passage],
        keys: Sequence[str],
        vectors: FloatArray,
        *,
        truncated: int,
    ) -> None:
        """Counts passages whose tokens and texts are stored.

        Stores the keys of their windows and their vectors, (windows, vector_dim); `truncated` of
        their texts were truncated or split.
        """
        ids = "".join(f"{json.dumps(key)}\n" for key in keys).encode()
        _append(self._ids, ids)
        _append(self._vectors, np.ascontiguousarray(vectors, np.float32).tobytes())
        self._count_in(passages)
        self.progress = self.progress._replace(
            passages=self.progress.passages + len(passages),
            digest=self._digest.hexdigest(),
            id_bytes=self.progress.id_bytes + len(ids),
            truncated=self.progress.truncated + truncated,
            rows=self.progress.rows + len(keys),
        )
        self._save()

    @property
    def keeps_vectors(self) -> bool:
        """Whether vectors are stored; false if those of another index are reused."""
        return self._vector_dim > 0

    def ids(self) -> PackedIds:
        """Returns the ids stored so far, those of windows included, in the corpus's order."""
        with self._ids.open(encoding="utf-8") as lines:
            return PackedIds.from_ids(map(json.loads, lines))

    def vectors(self) -> FloatArray:
        """Returns the vectors stored so far as a memory map, (rows, vector_dim)."""
        shape = (self.progress.rows, self._vector_dim)
        return np.memmap(self._vectors, np.float32, mode="r", shape=shape)

    def lost_data(self) -> DirectoryError:
        """Returns the error for a part with less data than was counted."""
        return DirectoryError(
            f"the unfinished part in {self.part.root} has lost some of its "
            f"{counted(self.progress.passages, 'passage')}: pass --overwrite without "
            "--resume to start over"
        )

    def discard(self) -> None:
        """Removes the unfinished part."""
        remove_part(self.part)

    def _count_in(self, passages: Sequence[Passage]) -> None:
        self._digest.update(
            [passage.passage_id for passage in passages],
            [passage.full_text for passage in passages],
        )

    def _save(self) -> None:
        data = json.dumps(self.progress._asdict(), indent=2).encode()
        write_whole(_progress_file(self.part), data)

    @property
    def _ids(self) -> Path:
        return self.part.progress / "ids.jsonl"

    @property
    def _vectors(self) -> Path:
        return self.part.progress / "vectors.f32"


def _is_disposable(begun: BuildProgress) -> bool:
    return bool(begun.settings.get("command") == DISPOSABLE)


def read_progress(part: PartLayout) -> BuildProgress | None:
    """Returns the progress of an unfinished part; None if there is none.

    Raises `DirectoryError` if the record is damaged.
    """
    file = _progress_file(part)
    try:
        return BuildProgress(**json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError) as error:
        raise DirectoryError(f"{file} is damaged: remove {part.root} and run it again") from error


def _progress_file(part: PartLayout) -> Path:
    return part.progress / "progress.json"


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as target:
        target.write(data)
        target.flush()
        os.fsync(target.fileno())
