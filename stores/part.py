"""One part of an index, opened for reading: its tokens, its texts and its vectors.

A part is written once. Whoever reads it holds a shared lock on its folder, and whoever removes
parts that the manifest names no longer leaves those alone that are locked.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from dipair_index.errors import StoreError
from dipair_index.stores.ann import FaissIndex
from dipair_index.stores.backends import open_token_store, remove_token_store
from dipair_index.stores.file_digests import check_sizes, read_lines
from dipair_index.stores.index_directory import Layout, PartLayout
from dipair_index.stores.manifest import Manifest, PartInfo
from dipair_index.stores.passages import PassageStore
from dipair_index.stores.text_lookup import TextLookup
from dipair_index.stores.token_store import TokenStore


class _OpenFiles:
    """The stores of a part, which a process opens once, so that all readers share its memory.

    Every `Part` of the same folder shares them; the last one to go closes them.
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
                    tokens_per_passage=manifest.max_passage_tokens,
                    dim=manifest.dim,
                    codec=manifest.codec,
                    readonly=True,
                )
            )
            self.passages = opened.enter_context(PassageStore.open(layout.passages, readonly=True))
            self.ann = FaissIndex.load(layout.ann)
            self.texts = TextLookup(layout.texts, self.passages, self.ann.ids)
            self._opened = opened.pop_all()

    @classmethod
    def shared(cls, layout: PartLayout, files_digest: str, manifest: Manifest) -> _OpenFiles:
        """The files of the part, with one user more."""
        with cls.guard:
            found = os.stat(layout.root)
            files = cls._by_folder.get((found.st_dev, found.st_ino))
            if files is None:
                files = cls(layout, files_digest, manifest)
                cls._by_folder[files._key] = files
            files.users += 1
            return files

    def release(self) -> None:
        """Takes one user away; the last one closes the files."""
        with self.guard:
            self.users -= 1
            if not self.users:
                del self._by_folder[self._key]
                self._opened.close()


# a forked child must not inherit the guard as another thread holds it
os.register_at_fork(
    before=_OpenFiles.guard.acquire,
    after_in_parent=_OpenFiles.guard.release,
    after_in_child=_OpenFiles.guard.release,
)


class Part:
    """The live passages of a part. A `Snapshot` puts parts together."""

    def __init__(self, root: Path, info: PartInfo, manifest: Manifest) -> None:
        layout = Layout(root).part(info.name)
        self.info = info
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
        self._closed = False

    def holding(self, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of `ids` are live in this part."""
        held = self.passages.holding(ids)
        if self.deleted:
            held &= np.fromiter((each not in self.deleted for each in ids), bool, len(ids))
        return held

    def find_texts(self, texts: Sequence[str]) -> list[str | None]:
        """Returns for each text the id of a live passage that the encoder reads so, or None."""
        return self._files.texts.find(texts, self.deleted)

    def live_ids(self) -> list[str]:
        """Returns the ids in the order in which the passages were added."""
        return [each for each in self.ann.ids if each not in self.deleted]

    def close(self) -> None:
        """Closes the files; closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._files.release()


def lock_shared(folder: Path, opened: ExitStack) -> tuple[int, int]:
    """Holds `folder` against removal until `opened` closes; returns its device and inode.

    Raises `StoreError` if it is being removed at this moment. A file system without locks is read
    without one.
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
    """Removes the part and its data at a URL, unless a process reads it."""
    with suppress(FileNotFoundError), ExitStack() as opened:
        handle = os.open(part.root, os.O_RDONLY)
        opened.callback(os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        # in one step, so that what is half removed is never taken for a part to go on with
        with suppress(FileNotFoundError):
            os.rename(part.progress, part.root / "removed")
        if isinstance(url := part.tokens_location(), str):
            remove_token_store("tensorstore", url)
        shutil.rmtree(part.root)
