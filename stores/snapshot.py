"""A snapshot of an index: the parts that one manifest names, unaffected by later changes.

Several indexes of the same settings are opened as one: a snapshot of the parts of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dipair_index.closing import Closing
from dipair_index.errors import DirectoryError, MissingPassagesError, StoreError
from dipair_index.records import FloatArray, Passage
from dipair_index.stores.codecs import EncodedRows, open_codec
from dipair_index.stores.id_table import Integers
from dipair_index.stores.lexical import LexicalIndex, LexicalPart
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.names import SPLIT
from dipair_index.stores.part import MetadataTest, Part

_NOWHERE = -1


class Snapshot(Closing):
    """The passages of an index at one moment: finds them by vector or words, reads them by id."""

    def __init__(self, manifest: Manifest, parts: Sequence[Part]) -> None:
        self.manifest = manifest
        self.parts = parts
        self.codec = open_codec(
            manifest.codec, tokens_per_passage=manifest.kept_tokens, dim=manifest.dim
        )

    @classmethod
    def open(cls, *roots: str | Path) -> Snapshot:
        """Opens the parts that the manifests at `roots` name, which are one index or several.

        If a writer changes an index meanwhile, the new version is opened. Raises `DirectoryError`
        as `Manifest.read` does, or if indexes have different settings, and `StoreError` if a part
        is damaged.
        """
        while True:
            manifests = [Manifest.read(root) for root in roots]
            with ExitStack() as opened:
                try:
                    parts = []
                    for root, manifest in zip(roots, manifests, strict=True):
                        for info in manifest.parts:
                            parts.append(Part(Path(root), info, manifest))
                            opened.callback(parts[-1].close)
                    snapshot = cls(joined_manifest(roots, manifests), parts)
                    opened.pop_all()
                    return snapshot
                except (StoreError, DirectoryError):
                    if [Manifest.read(root) for root in roots] == manifests:
                        raise

    def search(
        self, vectors: FloatArray, top_k: int, matches: MetadataTest | None = None
    ) -> tuple[list[list[str]], FloatArray]:
        """Finds the nearest live passages of vectors (queries, dim).

        With `matches`, they are the nearest whose metadata it accepts. Results are those of
        `FaissIndex.search`.
        """
        found = [part.search(vectors, top_k, matches) for part in self.parts]
        if len(found) == 1:
            return found[0]
        kept = min(top_k, len(self))
        ids: list[list[str]] = []
        best = np.full((len(vectors), kept), -np.inf, np.float32)
        for query in range(len(vectors)):
            pairs = sorted(
                (-score, passage_id)
                for part_ids, scores in found
                for score, passage_id in zip(scores[query].tolist(), part_ids[query], strict=False)
            )[:kept]
            ids.append([passage_id for _, passage_id in pairs])
            if len(set(ids[-1])) < len(ids[-1]):
                raise self._held_twice(ids[-1])
            best[query, : len(pairs)] = [-score for score, _ in pairs]
        return ids, best

    def search_words(
        self, query: str, top_k: int, matches: MetadataTest | None = None
    ) -> list[tuple[str, float]]:
        """Finds the live passages of the highest BM25: see `LexicalIndex.search`.

        With `matches`, they are the best whose metadata it accepts. Raises `DirectoryError` if the
        index was built without words, `MissingPackageError` if tantivy is not installed, and
        `StoreError` if a file is damaged.
        """
        if matches is None:
            return self._words.search(query, top_k)

        def accepts(ids: list[str]) -> list[bool]:
            return [matches(passage.metadata) for passage in self.passages(ids)]

        return self._words.search(query, top_k, accepts)

    @cached_property
    def _words(self) -> LexicalIndex:
        """The words of the passages, opened when they are first searched."""
        if not self.manifest.lexical:
            raise DirectoryError(
                "the index was built without --lexical, so it cannot be searched by words: build "
                "it again with it, or search by vectors"
            )
        return LexicalIndex(
            [LexicalPart(part.lexical_folder, part.ids, part.deleted) for part in self.parts]
        )

    def _held_twice(self, ids: Sequence[str]) -> DirectoryError:
        """Returns the error of indexes that were opened as one, and share an id among these."""
        twice = next(each for each in ids if ids.count(each) > 1)
        return DirectoryError(
            f"the passage {twice} is in more than one of the indexes that are searched as one: "
            "delete it from all but one of them"
        )

    def tokens(self, ids: Sequence[str]) -> FloatArray:
        """Returns tokens (len(ids), tokens_per_passage, dim) in the order of `ids`; ids may repeat.

        Of a passage that was split, they are those of its first window.
        Raises `MissingPassagesError`, which names the ids that are absent.
        """
        return self.codec.decode(self.encoded_tokens(ids))

    def encoded_tokens(self, ids: Sequence[str]) -> EncodedRows:
        """Like `tokens`, but returns uint8 rows (len(ids), bytes_per_passage) of `codec`."""
        if len(self.parts) == 1 and not self.parts[0].deleted:
            return self.parts[0].tokens.get_encoded(ids)
        rows = np.empty((len(ids), self.codec.bytes_per_passage), np.uint8)
        for part, indexes in self._by_part(ids):
            rows[indexes] = part.tokens.get_encoded([ids[index] for index in indexes])
        return rows

    def encoded_windows(self, ids: Sequence[str]) -> tuple[EncodedRows, Integers]:
        """Returns the rows of all windows of passages, and the position in `ids` of each row.

        Without windows, they are those of `encoded_tokens`. Raises errors as it does.
        """
        if self.manifest.long != SPLIT:
            return self.encoded_tokens(ids), np.arange(len(ids))
        rows = [np.empty((0, self.codec.bytes_per_passage), np.uint8)]
        owners = [np.empty(0, np.int64)]
        for part, indexes in self._by_part(ids):
            keys, at = part.window_keys([ids[index] for index in indexes])
            rows.append(part.tokens.get_encoded(keys))
            owners.append(np.array(indexes)[at])
        return np.concatenate(rows), np.concatenate(owners)

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """Returns the passages of `ids`, which may repeat, in their order.

        Raises `MissingPassagesError`, which names the ids that are absent.
        """
        found: dict[int, Passage] = {}
        for part, rows in self._by_part(ids):
            passages = part.passages.get([ids[row] for row in rows])
            found.update(zip(rows, passages, strict=True))
        return [found[row] for row in range(len(ids))]

    def find_texts(self, texts: Sequence[str]) -> list[str | None]:
        """Returns for each text the id of a live passage with this full text, or None.

        In older indexes, the first call reads all texts once: see `TextLookup`.
        """
        found: list[str | None] = [None] * len(texts)
        for part in self.parts:
            left = [index for index, passage_id in enumerate(found) if passage_id is None]
            here = part.find_texts([texts[index] for index in left])
            for index, passage_id in zip(left, here, strict=True):
                found[index] = passage_id
        return found

    def contains(self, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Returns which of `ids` are in the index, a boolean array (len(ids),)."""
        held: npt.NDArray[np.bool_] = self._part_numbers(ids) != _NOWHERE
        return held

    def _by_part(self, ids: Sequence[str]) -> Iterator[tuple[Part, list[int]]]:
        """Yields each part with the indexes of its ids.

        Raises `MissingPassagesError`, before the first part, if an id is absent.
        """
        numbers = self._part_numbers(ids)
        absent = dict.fromkeys(ids[row] for row in np.flatnonzero(numbers == _NOWHERE).tolist())
        if absent:
            raise MissingPassagesError.naming(absent, "the index")
        for number, part in enumerate(self.parts):
            if rows := np.flatnonzero(numbers == number).tolist():
                yield part, rows

    def _part_numbers(self, ids: Sequence[str]) -> npt.NDArray[np.intp]:
        """Returns the number of the part that holds each of `ids`, -1 if it is absent."""
        numbers = np.full(len(ids), _NOWHERE, np.intp)
        for number, part in enumerate(self.parts):
            left = np.flatnonzero(numbers == _NOWHERE)
            held = part.contains([ids[row] for row in left.tolist()])
            numbers[left[held]] = number
        return numbers

    def ids_between(self, start: int, stop: int) -> list[str]:
        """Returns some consecutive ids in the order of iteration, without reading the others."""
        return [
            each
            for part, first, last in self._parts_between(start, stop)
            for each in part.ids_between(first, last)
        ]

    def vectors_between(self, start: int, stop: int) -> FloatArray:
        """Returns the vectors of `ids_between`, (ids, vector_dim)."""
        parts = self._parts_between(start, stop)
        found = [part.vectors_between(first, last) for part, first, last in parts]
        return np.concatenate(found)

    def _parts_between(self, start: int, stop: int) -> Iterator[tuple[Part, int, int]]:
        """Yields the parts that hold these positions, with the positions in the part."""
        before = 0
        for part in self.parts:
            first, last = max(start - before, 0), min(stop - before, part.info.live)
            if first < last:
                yield part, first, last
            before += part.info.live

    def close(self) -> None:
        """Closes all files; closing twice is fine."""
        self.__dict__.pop("_words", None)
        for part in self.parts:
            part.close()

    def __len__(self) -> int:
        return self.manifest.passages

    def __iter__(self) -> Iterator[str]:
        """Iterates over the ids in the order of addition; an update counts as an addition."""
        return chain.from_iterable(part.live_ids() for part in self.parts)


_JOINED = (
    "model_fingerprint",
    "embedder_fingerprint",
    "side",
    "codec",
    "dim",
    "vector_dim",
    "lexical",
    "long",
)
"""The settings that indexes share if they are searched as one; the store may differ."""


def joined_manifest(roots: Sequence[str | Path], manifests: Sequence[Manifest]) -> Manifest:
    """Returns the manifest of several indexes opened as one: the first one's, with all parts.

    Raises `DirectoryError`, which names two indexes, if their settings differ.
    """
    first = manifests[0]
    for root, manifest in zip(roots[1:], manifests[1:], strict=True):
        for name in _JOINED:
            ours, theirs = getattr(first, name), getattr(manifest, name)
            if ours != theirs:
                raise DirectoryError(
                    f"{roots[0]} and {root} cannot be searched as one: their "
                    f"{name.replace('_', ' ')} is {ours} and {theirs}: build them with the same "
                    "settings"
                )
    if len(manifests) == 1:
        return first
    return replace(first, parts=tuple(part for each in manifests for part in each.parts))
