"""One part of an index, opened for reading: its tokens, its texts and its vectors.

A part is written once. A reader holds a shared lock on its folder, and a part that the manifest no
longer names is removed only if it is not locked.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from dipair_index.errors import StoreError
from dipair_index.records import FloatArray
from dipair_index.stores.ann import FaissIndex
from dipair_index.stores.backends import open_token_store, remove_token_store
from dipair_index.stores.file_digests import check_sizes, read_lines
from dipair_index.stores.id_table import Integers
from dipair_index.stores.index_directory import Layout, PartLayout
from dipair_index.stores.manifest import Manifest, PartInfo
from dipair_index.stores.names import SPLIT
from dipair_index.stores.passages import PassageStore
from dipair_index.stores.text_lookup import TextLookup
from dipair_index.stores.token_store import TokenStore
from dipair_index.stores.wanted_rows import Accepts
from dipair_index.stores.windows import first_windows, passage_of, window_keys

MetadataTest: TypeAlias = Callable[[Mapping[str, Any]], bool]
"""A function that tells from a passage's metadata whether a search may find it."""


class _OpenFiles:
    """The stores of a part, which all `Part` objects of the same folder in a process share.

    They are closed with the last of these objects.
    """

    _by_folder: ClassVar[dict[tuple[int, int], _OpenFiles]] = {}
    guard = threading.Lock()

    def __init__(self, layout: PartLayout, files_digest: str, manifest: Manifest) -> None:
        self.users = 0
        with ExitStack() as opened:
            self._key = lock_shared(layout.root, opened)
            check_sizes(layout.root, files_digest)
            self.tokens: TokenStore = opened.enter_context(
                open_token_store(
                    manifest.store,
                    layout.tokens_location(),
                    tokens_per_passage=manifest.kept_tokens,
                    dim=manifest.dim,
                    codec=manifest.codec,
                    readonly=True,
                )
            )
            self.passages = opened.enter_context(PassageStore.open(layout.passages, readonly=True))
            self.ann = FaissIndex.load(layout.ann)
            self.ids = first_windows(self.ann.ids) if manifest.long == SPLIT else self.ann.ids
            self.texts = TextLookup(layout.texts, self.passages, self.ids)
            self._opened = opened.pop_all()

    @classmethod
    def shared(cls, layout: PartLayout, files_digest: str, manifest: Manifest) -> _OpenFiles:
        """Returns the files of the part, and counts one more user."""
        with cls.guard:
            found = os.stat(layout.root)
            files = cls._by_folder.get((found.st_dev, found.st_ino))
            if files is None:
                files = cls(layout, files_digest, manifest)
                cls._by_folder[files._key] = files
            files.users += 1
            return files

    def release(self) -> None:
        """Counts one user less; after the last one, closes the files."""
        with self.guard:
            self.users -= 1
            if not self.users:
                del self._by_folder[self._key]
                self._opened.close()


# otherwise a forked child could inherit the guard while another thread holds it
os.register_at_fork(
    before=_OpenFiles.guard.acquire,
    after_in_parent=_OpenFiles.guard.release,
    after_in_child=_OpenFiles.guard.release,
)


class Part:
    """The live passages of one part; a `Snapshot` combines the parts of an index.

    Raises `StoreError` or `DirectoryError` if a file is missing or damaged.
    """

    def __init__(self, root: Path, info: PartInfo, manifest: Manifest) -> None:
        layout = Layout(root).part(info.name)
        self.info = info
        self.lexical_folder = layout.lexical
        self.deleted: frozenset[str] = frozenset()
        if info.deleted_file:
            lines = read_lines(layout.root / info.deleted_file, info.deleted_digest)
            self.deleted = frozenset(lines)
        try:
            self._files = _OpenFiles.shared(layout, info.files_digest, manifest)
        except OSError as error:
            raise StoreError(
                f"cannot open {layout.root}: {error.strerror or error}. Restore it from a copy, or "
                "build the index again with --overwrite"
            ) from error
        self.tokens, self.passages, self.ann = (
            self._files.tokens, self._files.passages, self._files.ann
        )  # fmt: skip
        self.ids = self._files.ids  # of passages; those of the other stores are of windows
        self.is_split = manifest.long == SPLIT
        self._live_rows: Integers | None = None
        self._closed = False

    def contains(self, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Returns which of `ids` are live in this part, a boolean array (len(ids),)."""
        held = self.passages.contains(ids)
        if self.deleted:
            held &= np.fromiter((each not in self.deleted for each in ids), bool, len(ids))
        return held

    def search(
        self, vectors: FloatArray, top_k: int, matches: MetadataTest | None = None
    ) -> tuple[list[list[str]], FloatArray]:
        """Finds the nearest live passages, whose metadata `matches` accepts if it is given.

        Results are those of `FaissIndex.search`.
        """

        def accepts(keys: list[str]) -> list[bool]:
            assert matches is not None
            ids = [self.passage_of(key) for key in keys]
            return [matches(passage.metadata) for passage in self.passages.get(ids)]

        accepted = None if matches is None else accepts
        if not self.is_split:
            return self.ann.search(vectors, top_k, deleted=self.deleted, accepts=accepted)
        return self._search_windows(vectors, top_k, accepted)

    def _search_windows(
        self, vectors: FloatArray, top_k: int, accepts: Accepts | None
    ) -> tuple[list[list[str]], FloatArray]:
        """Finds the passages with the nearest windows; asks for more windows until it has them."""
        kept = min(top_k, self.info.live)
        live = len(self.ann) - len(self._deleted_windows)
        count = max(1, min(live, 2 * top_k))
        while True:
            keys, scores = self.ann.search(
                vectors, count, deleted=self._deleted_windows, accepts=accepts
            )
            found = [
                _best_windows(each, scores[row].tolist(), kept) for row, each in enumerate(keys)
            ]
            # what was not found may be as good as the last window, and before it by id
            last = [row[-1] if len(row) else -np.inf for row in scores]
            if count >= live or all(
                len(best) >= kept and (not kept or best[-1][0] > least)
                for best, least in zip(found, last, strict=True)
            ):
                break
            count = min(4 * count, live)
        best_scores = np.full((len(vectors), kept), -np.inf, np.float32)
        for row, best in zip(best_scores, found, strict=True):
            row[: len(best)] = [score for score, _ in best]
        return [[passage_id for _, passage_id in best] for best in found], best_scores

    @cached_property
    def _deleted_windows(self) -> frozenset[str]:
        if not self.deleted:
            return self.deleted
        return frozenset(key for key in self.ann.ids if self.passage_of(key) in self.deleted)

    def passage_of(self, key: str) -> str:
        """Returns the id of the passage that a row of the vectors or tokens belongs to."""
        return passage_of(key) if self.is_split else key

    def window_keys(self, ids: Sequence[str]) -> tuple[list[str], Integers]:
        """Returns the keys of the windows of passages, and the position in `ids` of each."""
        if not self.is_split:
            return list(ids), np.arange(len(ids))
        counts = self.passages.windows(ids)
        return window_keys(ids, counts), np.repeat(np.arange(len(ids)), counts)

    def find_texts(self, texts: Sequence[str]) -> list[str | None]:
        """Returns for each text the id of a live passage with this full text, or None."""
        return self._files.texts.find(texts, self.deleted)

    def live_ids(self) -> list[str]:
        """Returns the ids in the order in which the passages were added."""
        return [each for each in self.ids if each not in self.deleted]

    def ids_between(self, start: int, stop: int) -> list[str]:
        """Returns some consecutive ones of `live_ids`, without making a list of all."""
        return self.ids.at(self._rows_between(start, stop))

    def vectors_between(self, start: int, stop: int) -> FloatArray:
        """Returns the vectors of `ids_between`, (ids, vector_dim)."""
        return self.ann.vectors_at(self._rows_between(start, stop))

    def _rows_between(self, start: int, stop: int) -> Integers:
        if not self.deleted:
            return np.arange(start, min(stop, len(self.ids)))
        if self._live_rows is None:
            live = (each not in self.deleted for each in self.ids)
            self._live_rows = np.flatnonzero(np.fromiter(live, bool, len(self.ids)))
        return self._live_rows[start:stop]

    def close(self) -> None:
        """Closes the files; closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._files.release()


def _best_windows(
    keys: Sequence[str], scores: Sequence[float], kept: int
) -> list[tuple[float, str]]:
    """Returns the `kept` passages with the best windows and their scores, ties by id."""
    best: dict[str, float] = {}
    for key, score in zip(keys, scores, strict=False):  # best first; missing ones have no key
        best.setdefault(passage_of(key), score)
    return [(score, each) for each, score in sorted(best.items(), key=lambda at: (-at[1], at[0]))][
        :kept
    ]


def lock_shared(folder: Path, opened: ExitStack) -> tuple[int, int]:
    """Locks `folder` against removal until `opened` closes; returns its device and inode.

    On a file system without locks, does not lock. Raises `StoreError` if another process is
    removing the folder.
    """
    handle = os.open(folder, os.O_RDONLY)
    opened.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(f"{folder} is being removed: open the index again") from error
    except OSError:
        pass
    held = os.fstat(handle)
    return held.st_dev, held.st_ino


def remove_part(part: PartLayout) -> None:
    """Removes a part, with its data at a URL, unless a process reads it."""
    with suppress(FileNotFoundError), ExitStack() as opened:
        handle = os.open(part.root, os.O_RDONLY)
        opened.callback(os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        # first, so that a half-removed part is never taken for an unfinished one to resume
        with suppress(FileNotFoundError):
            os.rename(part.progress, part.root / "removed")
        if isinstance(url := part.tokens_location(), str):
            remove_token_store("tensorstore", url)
        shutil.rmtree(part.root)
