"""Changes an index: writes new files beside the existing ones, then replaces the manifest."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from dipair_index.closing import Closing
from dipair_index.digests import TextsDigest, checksum
from dipair_index.errors import (
    DirectoryError,
    MissingPassagesError,
    SettingsError,
    StoreError,
    WriteError,
)
from dipair_index.files import sync, write_whole
from dipair_index.records import FloatArray
from dipair_index.stores.ann import FaissIndex
from dipair_index.stores.ann_info import VectorSource
from dipair_index.stores.backends import open_token_store
from dipair_index.stores.file_digests import damages, seal
from dipair_index.stores.index_directory import Layout, PartLayout, WriterLock
from dipair_index.stores.lexical import build_lexical, check_lexical
from dipair_index.stores.manifest import Manifest, PartInfo
from dipair_index.stores.names import SPLIT
from dipair_index.stores.packed_ids import PackedIds
from dipair_index.stores.part import Part, remove_part
from dipair_index.stores.passages import PassageStore
from dipair_index.stores.snapshot import Snapshot
from dipair_index.stores.text_lookup import digests_of
from dipair_index.stores.windows import first_windows

GROWTH = 8
"""A part is merged with those after it once they hold an eighth of it: of n passages that are
added one by one, log(n) / log(9) parts remain, each copied log(n) / log(9/8) times at most."""
COPIED_AT_ONCE = 2048


class IndexWriter(Closing):
    """The exclusive writer of the index at `root`, until it is closed. A context manager.

    Files that an interrupted writer left are removed first, except for an unfinished part, which
    can be resumed. Raises `DirectoryError` if there is no index, unless a `new` one is to be
    built, or if another process changes it; `StoreError` if the directory cannot be written.
    """

    def __init__(self, root: str | Path, *, new: bool = False) -> None:
        if not new:
            # before anything is touched
            Manifest.read(root)
        # symbolic links are resolved, so that renames stay on one disk
        self.layout = Layout(Path(os.path.realpath(root)))
        self._lock = WriterLock(self.layout.root)
        try:
            self.manifest = self._read()
            self.collect_garbage()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise StoreError(
                    f"{root} cannot be changed: {error.strerror or error}. It can still be read"
                ) from error
            raise

    def _read(self) -> Manifest | None:
        """Returns the manifest; None if there is none, or if it is damaged."""
        with suppress(DirectoryError):
            return Manifest.read(self.layout.root)
        return None

    @property
    def current(self) -> Manifest:
        """The manifest; raises `DirectoryError` as `Manifest.read` does if there is none."""
        return self.manifest or Manifest.read(self.layout.root)

    def replace_manifest(self, manifest: Manifest) -> None:
        """Replaces the manifest; all parts that it names must be in the index already."""
        manifest = replace(manifest, generation=self._next())
        try:
            manifest.write(self.layout.root)
        finally:
            # an error may occur after the manifest was replaced
            self.manifest = self._read()
        with suppress(OSError, StoreError, WriteError):
            # the change is complete: remaining garbage is removed at the next one
            self.collect_garbage()

    def install_part(
        self,
        built: PartLayout,
        passages: int,
        truncated: int,
        digest: str,
        manifest: Manifest,
    ) -> PartInfo:
        """Writes the digests of a finished part, and moves it from `built` into the index.

        Its stores must be closed; if `manifest` says so, its words are indexed too. Returns its
        entry for the manifest. Raises `StoreError` if it cannot be written.
        """
        name = f"{self._next():06d}"
        try:
            for store in (built.tokens, built.passages):
                # they are never written again, and without a lock file, reading changes no file
                (store / "lock.mdb").unlink(missing_ok=True)
            with PassageStore.open(built.passages, readonly=True) as texts:
                ids = PackedIds.load(built.ann)
                if manifest.long == SPLIT:
                    ids = first_windows(ids)
                np.save(built.texts, digests_of(texts, ids))
                if manifest.lexical:
                    build_lexical(built.lexical, map(texts.get, _chunks(ids)))
            files_digest = seal(built.root, leaving_out=(built.progress.name,))
            self.layout.parts.mkdir(exist_ok=True)
            os.rename(built.root, self.layout.part(name).root)
            sync(self.layout.parts)
        except OSError as error:
            raise StoreError(
                f"cannot write {built.root}: {error.strerror or error}. Make room on the disk and "
                "run it again"
            ) from error
        return PartInfo(name, passages, truncated, digest, files_digest)

    def mark_deleted(self, parts: Iterable[Part], ids: Sequence[str]) -> tuple[PartInfo, ...]:
        """Writes the deletion of `ids`, and returns the entries of `parts` for the next manifest.

        Ids that are in no part are ignored.
        """
        infos = []
        for part in parts:
            held: list[str] = []
            for asked in _chunks(ids):
                found = part.contains(asked)
                held += [each for each, here in zip(asked, found, strict=True) if here]
            infos.append(self._with_deleted(part, held) if held else part.info)
        return tuple(infos)

    def _with_deleted(self, part: Part, ids: list[str]) -> PartInfo:
        deleted = sorted(part.deleted.union(ids))
        data = "".join(f"{json.dumps(each)}\n" for each in deleted).encode()
        name = f"deleted-{self._next():06d}.jsonl"
        write_whole(self.layout.part(part.info.name).root / name, data)
        return replace(
            part.info, deleted=len(deleted), deleted_file=name, deleted_digest=checksum(data)
        )

    def delete(self, ids: Iterable[str], *, ignore_missing: bool = False) -> int:
        """Deletes passages; returns their number.

        Raises `MissingPassagesError`, and deletes nothing, if some are not in the index, unless
        `ignore_missing`.
        """
        unique = list(dict.fromkeys(ids))
        with Snapshot.open(self.layout.root) as snapshot:
            found = snapshot.contains(unique).tolist()
            if not all(found) and not ignore_missing:
                absent = [each for each, here in zip(unique, found, strict=True) if not here]
                raise MissingPassagesError.naming(absent, "the index")
            if held := [each for each, here in zip(unique, found, strict=True) if here]:
                parts = self.mark_deleted(snapshot.parts, held)
                self.replace_manifest(replace(self.current, parts=parts))
        return len(held)

    def compact(self, report: Callable[[int], None] = lambda count: None) -> bool:
        """Copies all live passages into one part; returns whether that changed the index.

        `report` is called with the number of passages copied so far. Raises `StoreError` if a part
        is damaged.
        """
        parts = self.current.parts
        if len(parts) < 2 and not any(part.deleted for part in parts):
            return False
        self._merge(0, report)
        return True

    def merge_small(self) -> None:
        """Merges the last parts if they have at least an eighth of the passages of the one before.

        Raises `StoreError` if one of them is damaged.
        """
        sizes = [part.live for part in self.current.parts]
        first = len(sizes) - 1
        while first > 0 and sizes[first - 1] <= GROWTH * sum(sizes[first:]):
            first -= 1
        if first < len(sizes) - 1:
            self._merge(first, lambda count: None)

    def _merge(self, first: int, report: Callable[[int], None]) -> None:
        manifest = self.current
        if manifest.lexical:
            check_lexical()
        for info in manifest.parts[first:]:
            # otherwise a copy of damaged data would get valid digests
            for sentence in damages(
                self.layout.part(info.name).root, info.files_digest, known=("*",)
            ):
                raise StoreError(
                    f"{sentence}. Nothing was merged: restore it from a copy, or build the index "
                    "again with --overwrite"
                )
        with Snapshot.open(self.layout.root) as snapshot:
            parts = snapshot.parts[first:]
            live = any(part.info.live for part in parts)
            merged = self._copied(manifest, parts, report) if live else ()
        self.replace_manifest(replace(manifest, parts=(*manifest.parts[:first], *merged)))

    def _copied(
        self, manifest: Manifest, parts: Iterable[Part], report: Callable[[int], None]
    ) -> tuple[PartInfo]:
        """Builds a new part from the live passages of `parts`."""
        target = self.layout.merging
        target.create(manifest.store_url)
        ids: list[str] = []
        vectors, done = [], 0
        digest = TextsDigest()
        try:
            with (
                open_token_store(
                    manifest.store,
                    target.tokens_location(),
                    tokens_per_passage=manifest.kept_tokens,
                    dim=manifest.dim,
                    codec=manifest.codec,
                ) as tokens,
                PassageStore.open(target.passages) as passages,
            ):
                for part in parts:
                    live = np.array(
                        [part.passage_of(each) not in part.deleted for each in part.ann.ids], bool
                    )
                    vectors.append(part.ann.vectors()[live])
                    for chunk in _chunks(part.live_ids()):
                        texts = part.passages.get(chunk)
                        keys, owners = part.window_keys(chunk)
                        tokens.put_encoded(keys, part.tokens.get_encoded(keys))
                        passages.put(texts, np.bincount(owners).tolist())
                        digest.update(chunk, [each.full_text for each in texts])
                        ids += keys
                        done += len(chunk)
                        report(done)
            source = VectorSource(
                manifest.embedder, manifest.embedder_fingerprint, digest.hexdigest()
            )
            build_ann(ids, np.concatenate(vectors), manifest, source).save(target.ann)
            truncated = sum(part.info.truncated for part in parts)
            installed = self.install_part(target, done, truncated, digest.hexdigest(), manifest)
            return (installed,)
        except BaseException:
            remove_part(target)
            raise

    def _next(self) -> int:
        """Returns the generation of the next change, a number that no part or file has yet."""
        generation = self.manifest.generation if self.manifest else 0
        return 1 + max([generation, *map(int, self._part_names())])

    def _part_names(self) -> list[str]:
        """Returns the names of all parts, without files that do not belong to the index."""
        names = os.listdir(self.layout.parts) if self.layout.parts.is_dir() else []
        return sorted(name for name in names if name.isdecimal())

    def collect_garbage(self) -> None:
        """Removes the files and parts that the manifest does not name and that no process reads."""
        if self.manifest is None and self.layout.manifest.exists():
            return  # a damaged manifest: its parts may still be needed
        remove_part(self.layout.merging)
        named = {part.name: part for part in self.manifest.parts} if self.manifest else {}
        for name in self._part_names():
            part = self.layout.part(name)
            if name in named:
                shutil.rmtree(part.progress, ignore_errors=True)
                for file in part.root.glob("deleted-*"):
                    if file.name != named[name].deleted_file:
                        file.unlink(missing_ok=True)
            elif part.progress.is_dir() and not self.layout.building.root.exists():
                # a finished part, whose writer ended before it replaced the manifest
                os.rename(part.root, self.layout.building.root)
            elif self.manifest is not None:
                remove_part(part)

    def close(self) -> None:
        """Lets another process write; closing twice is fine."""
        self._lock.release()


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[at : at + COPIED_AT_ONCE] for at in range(0, len(ids), COPIED_AT_ONCE))


def build_ann(
    ids: Sequence[str],
    vectors: FloatArray,
    manifest: Manifest,
    source: VectorSource,
    *,
    strict: bool = False,
) -> FaissIndex:
    """Builds a vector index of the manifest's kind from vectors (ids, dim).

    If it cannot be trained on them, an exact one is built instead, or with `strict` the
    `SettingsError` is raised.
    """
    try:
        return FaissIndex.build(
            ids, vectors, kind=manifest.ann_kind, seed=manifest.seed, source=source
        )
    except SettingsError:
        if strict:
            raise
        return FaissIndex.build(ids, vectors, seed=manifest.seed, source=source)
