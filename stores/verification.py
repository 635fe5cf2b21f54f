"""Verifies every byte of an index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import ExitStack
from pathlib import Path

from dipair_index.errors import DiPairError
from dipair_index.optional import is_installed
from dipair_index.stores.file_digests import damages, read_lines
from dipair_index.stores.index_directory import Layout, PartLayout
from dipair_index.stores.lexical import LexicalIndex, LexicalPart
from dipair_index.stores.manifest import Manifest, PartInfo
from dipair_index.stores.part import Part, lock_shared
from dipair_index.words import counted


def verify_index(
    root: str | Path, report: Callable[[int], None] = lambda count: None
) -> Iterator[str]:
    """Reads the whole index at `root`; yields a sentence for each damage, naming file and bytes.

    `report` is called with the number of bytes read so far. A part whose files were changed is not
    opened, since LMDB may crash on damaged data. If a writer changes the index meanwhile, it is
    read again. Raises `DirectoryError` as `Manifest.read` does.
    """
    manifest, done = Manifest.read(root), 0

    def count(read: int) -> None:
        nonlocal done
        done += read
        report(done)

    for info in manifest.parts:
        found = list(_damages_of_part(Path(root), info, manifest, count))
        if found and Manifest.read(root).generation != manifest.generation:
            # a missing part may have been removed on purpose
            yield from verify_index(root, report)
            return
        yield from found
        if found:
            yield (
                f"part {info.name} of {root} holds {counted(info.live, 'passage')}: restore it "
                "from a copy, or build the index again with --overwrite"
            )


def _damages_of_part(
    root: Path, info: PartInfo, manifest: Manifest, count: Callable[[int], None]
) -> Iterator[str]:
    folder = Layout(root).part(info.name).root
    try:
        with ExitStack() as opened:
            lock_shared(folder, opened)
            # a killed writer may leave such files, which the next writer removes
            known = ("deleted-*", f"{PartLayout(folder).progress.name}/*")
            found = list(damages(folder, info.files_digest, known=known, report=count))
            yield from found
            if info.deleted_file:
                read_lines(folder / info.deleted_file, info.deleted_digest)
            if not found:
                part = Part(root, info, manifest)
                opened.callback(part.close)
                yield from part.tokens.verify()
                yield from _miscounts(part, lexical=manifest.lexical)
    except OSError as error:
        yield f"{folder} cannot be read: {error.strerror or error}"
    except DiPairError as error:
        yield str(error)


def _miscounts(part: Part, *, lexical: bool) -> Iterator[str]:
    """Yields the differences between the counts of the stores and of the manifest."""
    stores: dict[str, Sized] = {"texts": part.passages, "vectors": part.ids}
    if part.is_split and len(part.tokens) != len(part.ann):
        yield (
            f"part {part.info.name} has tokens of {counted(len(part.tokens), 'window')}, but "
            f"vectors of {len(part.ann):,}"
        )
    elif not part.is_split:
        stores = {"tokens": part.tokens, **stores}
    if lexical and is_installed("tantivy"):
        stores["words"] = LexicalIndex([LexicalPart(part.lexical_folder, part.ids, ())])
    for name, store in stores.items():
        if len(store) != part.info.passages:
            yield (
                f"part {part.info.name} has {name} of {counted(len(store), 'passage')}, but the "
                f"manifest says {part.info.passages:,}"
            )
