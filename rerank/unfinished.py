"""A part of an index on its way: what of it is safely on disk, so that it can be gone on with."""

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


class Progress(NamedTuple):
    """How far the part is, and with which settings it was begun."""

    settings: dict[str, Any]
    passages: int
    digest: str
    id_bytes: int
    truncated: int


class UnfinishedPart:
    """The ids and vectors so far, and `progress.json`, which counts what is valid of them.

    Every step is on disk before it is counted, so a build may end at any moment. `vector_dim`
    of 0 keeps no vectors. Only an `IndexWriter`'s holder may use it.
    """

    def __init__(self, part: PartLayout, settings: dict[str, Any], *, vector_dim: int) -> None:
        self.part = part
        self._vector_dim = vector_dim
        self._digest = TextsDigest()
        self.progress = Progress(settings, 0, self._digest.hexdigest(), 0, 0)

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
        """Takes up the part, or begins it anew with its tokens in a place below `store_url`.

        Raises `DirectoryError` for one that is there and not asked for, and for settings
        that are not its own.
        """
        begun = read_progress(part)
        unfinished = cls(part, settings, vector_dim=vector_dim)
        if begun and begun.passages and resume:
            unfinished._take_up(begun)
        elif begun and begun.passages and not overwrite:
            raise DirectoryError(
                f"{part.root} holds {counted(begun.passages, 'passage')} of an interrupted "
                f"{begun.settings['command']}: pass --resume to go on with it, or --overwrite to "
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

    def _take_up(self, begun: Progress) -> None:
        for name, asked in self.progress.settings.items():
            if begun.settings.get(name) != asked:
                raise DirectoryError(
                    f"the unfinished part in {self.part.root} was begun with "
                    f"{name} {begun.settings.get(name)}, not {asked}: resume it with the same "
                    "settings, or pass --overwrite without --resume to start over"
                )
        self.progress = begun
        vector_bytes = 4 * self._vector_dim * begun.passages
        for file, size in ((self._ids, begun.id_bytes), (self._vectors, vector_bytes)):
            if not file.is_file() or file.stat().st_size < size:
                raise self.lossy()
            # what was written after the last count is no part of the build
            os.truncate(file, size)

    def skip(self, passages: Iterator[Passage]) -> None:
        """Passes over what is stored; `DirectoryError` where it is not the same passages."""
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

    def count(self, passages: Sequence[Passage], vectors: FloatArray, *, truncated: int) -> None:
        """Adds passages whose tokens and texts are stored, and vectors (passages, vector_dim)."""
        ids = "".join(f"{json.dumps(passage.passage_id)}\n" for passage in passages).encode()
        _append(self._ids, ids)
        _append(self._vectors, np.ascontiguousarray(vectors, np.float32).tobytes())
        self._count_in(passages)
        self.progress = self.progress._replace(
            passages=self.progress.passages + len(passages),
            digest=self._digest.hexdigest(),
            id_bytes=self.progress.id_bytes + len(ids),
            truncated=self.progress.truncated + truncated,
        )
        self._save()

    @property
    def keeps_vectors(self) -> bool:
        """Whether the vectors are wanted, or another index's are taken over."""
        return self._vector_dim > 0

    def ids(self) -> PackedIds:
        """Returns the ids so far, in the order of the corpus."""
        with self._ids.open(encoding="utf-8") as lines:
            return PackedIds.from_ids(map(json.loads, lines))

    def vectors(self) -> FloatArray:
        """Returns the vectors so far as a view of their file, (passages, vector_dim)."""
        shape = (self.progress.passages, self._vector_dim)
        return np.memmap(self._vectors, np.float32, mode="r", shape=shape)

    def lossy(self) -> DirectoryError:
        """What to say where less is there than was counted."""
        return DirectoryError(
            f"the unfinished part in {self.part.root} has lost some of its "
            f"{counted(self.progress.passages, 'passage')}: pass --overwrite without "
            "--resume to start over"
        )

    def discard(self) -> None:
        """Removes everything that was built."""
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


def read_progress(part: PartLayout) -> Progress | None:
    """Returns how far the part is, None where there is none on its way."""
    file = _progress_file(part)
    try:
        return Progress(**json.loads(file.read_text(encoding="utf-8")))
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
