"""The manifest of an index and the sizes of its files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dipair_index.stores.backends import open_token_store
from dipair_index.stores.index_directory import Layout, PartLayout
from dipair_index.stores.manifest import Manifest


class FileSizes(NamedTuple):
    """The bytes of an index on disk, or in the bucket.

    `vectors` is the size of the ANN index with its ids, `words` that of the BM25 index, `other`
    that of all other files: the manifest, digests, ids of deleted passages, unfinished parts, and
    old parts that are still read.
    """

    tokens: int
    vectors: int
    texts: int
    words: int
    other: int

    @property
    def total(self) -> int:
        """The sum of all sizes."""
        return sum(self)


@dataclass(frozen=True)
class IndexInfo:
    """The manifest and the sizes of an index.

    `old_parts` is the number of parts that no longer belong to it, but that a process still reads.
    """

    manifest: Manifest
    sizes: FileSizes
    old_parts: int

    @property
    def stored(self) -> int:
        """The number of stored passages, including deleted ones."""
        return sum(part.passages for part in self.manifest.parts)

    def bytes_per_passage(self) -> dict[str, float | None]:
        """Returns the sizes and their total per stored passage; None if there is no passage."""
        sizes = {**self.sizes._asdict(), "total": self.sizes.total}
        return {name: size / self.stored if self.stored else None for name, size in sizes.items()}

    @classmethod
    def read(cls, root: str | Path) -> IndexInfo:
        """Reads the manifest and the sizes of the files, but not their contents.

        Raises `DirectoryError` as `Manifest.read` does, and `StoreError` if a token store at a URL
        cannot be reached.
        """
        layout = Layout(Path(root))
        while True:
            manifest = Manifest.read(root)
            parts = [layout.part(part.name) for part in manifest.parts]
            here = sum(_bytes_in(part.tokens) for part in parts)
            vectors = sum(_bytes_in(part.ann) for part in parts)
            texts = sum(_bytes_in(part.passages) for part in parts)
            elsewhere = sum(_bytes_elsewhere(part, manifest) for part in parts)
            words = sum(_bytes_in(part.lexical) for part in parts)
            other = _bytes_in(layout.root) - here - vectors - texts - words
            names = {path.name for path in layout.parts.iterdir()} if parts else set()
            old_parts = len(names.difference(part.name for part in manifest.parts))
            # otherwise a writer has changed the index meanwhile
            if Manifest.read(root).generation == manifest.generation:
                sizes = FileSizes(here + elsewhere, vectors, texts, words, other)
                return cls(manifest, sizes, old_parts)


def _bytes_elsewhere(part: PartLayout, manifest: Manifest) -> int:
    """Returns the bytes of tokens that are stored at a URL."""
    location = part.tokens_location()
    if isinstance(location, Path):
        return 0
    with open_token_store(
        manifest.store,
        location,
        tokens_per_passage=manifest.kept_tokens,
        dim=manifest.dim,
        codec=manifest.codec,
        readonly=True,
    ) as tokens:
        return tokens.stored_bytes()


def _bytes_in(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        # a writer may remove files meanwhile
        with suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size
