"""A build on its way: what of it is safely on disk, so that it can be gone on with."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from dipair_index.digests import TextsDigest
from dipair_index.errors import IndexDirectoryError
from dipair_index.records import FloatArray, Passage

PASSAGES_AT_ONCE = 10_000
_FOLDER = "build"
"""Where these files stand in the index directory until the build is done."""


class Progress(NamedTuple):
    """How far the build is, and with which settings it was begun."""

    settings: dict[str, Any]
    passages: int
    digest: str
    id_bytes: int
    truncated: int


class UnfinishedBuild:
    """The ids and vectors so far, and `progress.json`, which counts what is valid of them.

    Every step is on disk before it is counted, so a build may end at any moment. `vector_dim`
    of 0 keeps no vectors.
    """

    def __init__(self, root: Path, settings: dict[str, Any], *, vector_dim: int) -> None:
        self.root = root
        self._folder = root / _FOLDER
        self._vector_dim = vector_dim
        self._digest = TextsDigest()
        self.progress = Progress(settings, 0, self._digest.hexdigest(), 0, 0)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self._folder / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise IndexDirectoryError(f"another build is at work in {root}: let it end") from error

    @classmethod
    def open(
        cls,
        root: Path,
        settings: dict[str, Any],
        *,
        vector_dim: int,
        resume: bool,
        overwrite: bool,
    ) -> UnfinishedBuild:
        """Takes up the build in `root`, or begins one there.

        Raises `IndexDirectoryError` for a build that is there and not asked for, for settings
        that are not its own, and for a directory that is none of ours.
        """
        begun = read_progress(root)
        if begun is None and root.exists() and not (root / _FOLDER).is_dir():
            raise IndexDirectoryError(
                f"{root} is in the way and no unfinished build: move it elsewhere"
            )
        unfinished = cls(root, settings, vector_dim=vector_dim)
        try:
            if begun and begun.passages and resume:
                unfinished._take_up(begun)
            elif begun and begun.passages and not overwrite:
                raise IndexDirectoryError(
                    f"{root} holds an unfinished build of {begun.passages:,} passages: pass "
                    "--resume to go on with it, or --overwrite to start over"
                )
            else:
                unfinished._start_over()
        except BaseException:
            unfinished.close()
            raise
        return unfinished

    def _take_up(self, begun: Progress) -> None:
        for name, asked in self.progress.settings.items():
            if begun.settings.get(name) != asked:
                raise IndexDirectoryError(
                    f"the unfinished build in {self.root} was begun with "
                    f"{name} {begun.settings.get(name)}, not {asked}: resume it with the same "
                    "settings, or pass --overwrite without --resume to start over"
                )
        self.progress = begun
        # what was written after the last count is no part of the build
        os.truncate(self._ids, begun.id_bytes)
        os.truncate(self._vectors, 4 * self._vector_dim * begun.passages)

    def _start_over(self) -> None:
        for path in self.root.iterdir():
            if path != self._folder:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._ids.write_bytes(b"")
        self._vectors.write_bytes(b"")
        self._save()

    def skip(self, passages: Iterator[Passage]) -> None:
        """Passes over what is stored; `IndexDirectoryError` where it is not the same passages."""
        left = self.progress.passages
        while left and (known := list(islice(passages, min(left, PASSAGES_AT_ONCE)))):
            self._count_in(known)
            left -= len(known)
        if self._digest.hexdigest() != self.progress.digest:
            raise IndexDirectoryError(
                f"the corpus does not begin with the {self.progress.passages:,} passages of the "
                f"unfinished build in {self.root}: give the same corpus, or pass --overwrite "
                "without --resume to start over"
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

    def ids(self) -> list[str]:
        """Returns the ids so far, in the order of the corpus."""
        with self._ids.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def vectors(self) -> FloatArray:
        """Returns the vectors so far as a view of their file, (passages, vector_dim)."""
        shape = (self.progress.passages, self._vector_dim)
        return np.memmap(self._vectors, np.float32, mode="r", shape=shape)

    def discard(self) -> None:
        """Removes everything that was built."""
        shutil.rmtree(self.root)

    def close(self) -> None:
        """Lets another process go on; closing twice is fine."""
        self._lock.close()

    def __enter__(self) -> UnfinishedBuild:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _count_in(self, passages: Sequence[Passage]) -> None:
        self._digest.update(
            [passage.passage_id for passage in passages],
            [passage.full_text for passage in passages],
        )

    def _save(self) -> None:
        part = self._folder / "progress.json.tmp"
        with part.open("w", encoding="utf-8") as target:
            json.dump(self.progress._asdict(), target, indent=2)
            target.flush()
            os.fsync(target.fileno())
        os.replace(part, self._folder / "progress.json")

    @property
    def _ids(self) -> Path:
        return self._folder / "ids.jsonl"

    @property
    def _vectors(self) -> Path:
        return self._folder / "vectors.f32"


def read_progress(root: Path) -> Progress | None:
    """Returns how far the build in `root` is, None where there is none."""
    try:
        text = (root / _FOLDER / "progress.json").read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Progress(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise IndexDirectoryError(
            f"{root / _FOLDER / 'progress.json'} is damaged: remove {root} and build again"
        ) from error


def forget_progress(index_dir: Path) -> None:
    """Removes from a finished index what only its build needed."""
    shutil.rmtree(index_dir / _FOLDER, ignore_errors=True)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as target:
        target.write(data)
        target.flush()
        os.fsync(target.fileno())
