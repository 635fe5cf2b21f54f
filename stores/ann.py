"""The first stage: nearest passages by inner product of unit vectors, with FAISS."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dipair_index.errors import DirectoryError, SettingsError, StoreError
from dipair_index.files import utf8_path, write_whole
from dipair_index.records import FloatArray
from dipair_index.stores.faiss_kinds import new_index, reason
from dipair_index.stores.faiss_search import (
    Candidates,
    flat_vectors,
    in_threads,
    inner_products,
    is_flat,
    rounding_margin,
    search_flat,
    search_one,
)
from dipair_index.stores.packed_ids import PackedIds
from dipair_index.stores.token_store import validated_keys
from dipair_index.threads import answer_after_fork

ANN_FORMAT_VERSION = 1
_ORIGINALS = "vectors.npy"
_ROWS_AT_ONCE = 65_536
_SPARE = 32
"""Candidates asked of FAISS beyond those that are returned: ties seldom go on for longer."""


@dataclass(frozen=True)
class VectorSource:
    """What the vectors were made of: by whom, from which passages (see `dipair_index.digests`)."""

    embedder: str = ""
    embedder_fingerprint: str = ""
    passages_digest: str = ""


@dataclass(frozen=True)
class AnnInfo:
    """What `ann.json` says of the folder it is in."""

    kind: str
    count: int
    dim: int
    source: VectorSource
    index_bytes: int
    format_version: int = ANN_FORMAT_VERSION

    @classmethod
    def read(cls, folder: str | Path) -> AnnInfo:
        """Reads it; raises `DirectoryError` if it is absent, damaged or of a newer format."""
        file = Path(folder) / "ann.json"
        try:
            values = json.loads(file.read_text("utf-8"))
            version = values["format_version"]
            if version == ANN_FORMAT_VERSION:
                return cls(**{**values, "source": VectorSource(**values["source"])})
        except FileNotFoundError as error:
            raise DirectoryError(f"there is no ANN index in {folder}: no ann.json") from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DirectoryError(f"{file} is damaged ({error}): build it again") from error
        raise DirectoryError(
            f"{file} has format version {version}, this version reads {ANN_FORMAT_VERSION}: "
            "upgrade dipair-index or build it again"
        )


class FaissIndex:
    """Passage ids by vector. Approximate kinds may miss some; scores are inner products."""

    def __init__(
        self,
        index: Any,
        ids: PackedIds,
        kind: str,
        source: VectorSource,
        originals: FloatArray | None = None,
    ) -> None:
        answer_after_fork()
        self._index = index
        self._originals = originals
        self._stored = flat_vectors(index) if originals is None else originals
        self.ids = ids
        self.kind = kind
        self.source = source

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return int(self._index.d)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def build(
        cls,
        ids: Sequence[str],
        vectors: FloatArray,
        *,
        kind: str = "flat",
        seed: int = 0,
        source: VectorSource | None = None,
    ) -> FaissIndex:
        """An index of vectors (ids, dim): `flat` (exact), `hnsw`, `ivf` or a FAISS factory string.

        SettingsError for a repeated id, a kind that FAISS does not know or that cannot search by
        inner product, and for too few vectors to train it.
        """
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            validated_keys(ids[start : start + _ROWS_AT_ONCE])
        vectors = validated_vectors(vectors, count=len(ids))
        if not len(ids) or not vectors.shape[1]:
            raise SettingsError(f"an ANN index needs vectors, got {vectors.shape}")
        # eight bytes an id: equal ids have equal hashes, and few others have
        if len(np.unique(np.fromiter(map(hash, ids), np.int64, len(ids)))) < len(ids):
            repeated, times = Counter(ids).most_common(1)[0]
            if times > 1:
                raise SettingsError(
                    f"the passage id {repeated!r} is given twice: ids must be unique"
                )
        index = new_index(kind, *vectors.shape, seed=seed)
        try:
            if not index.is_trained:
                index.train(vectors)
            index.add(vectors)
        except (RuntimeError, MemoryError) as error:
            raise SettingsError(
                f"FAISS cannot build {kind!r} from {len(ids)} vectors ({reason(error)}): "
                "use flat or hnsw, or give more passages"
            ) from error
        built = cls(index, PackedIds.from_ids(ids), kind, source or VectorSource())
        if built._stored is None and not built._gives_back(vectors):
            built._originals = built._stored = vectors
        return built

    def _gives_back(self, vectors: FloatArray) -> bool:
        """Whether FAISS keeps all vectors as they are."""
        try:
            return all(
                np.array_equal(
                    self._reconstructed(start, min(_ROWS_AT_ONCE, len(self) - start)),
                    vectors[start : start + _ROWS_AT_ONCE],
                )
                for start in range(0, len(self), _ROWS_AT_ONCE)
            )
        except RuntimeError:
            return False

    def search(
        self, vectors: FloatArray, top_k: int, *, deleted: Collection[str] = frozenset()
    ) -> tuple[list[list[str]], FloatArray]:
        """Ids of the largest inner products for each of vectors (queries, dim), and these.

        Best first, ties by id, none of the `deleted` ones, all of which are in the index. Scores
        are (queries, min(top_k, count)); where an approximate kind finds fewer, the query's list
        is shorter and its last scores are -inf. Equal vectors have equal scores, whatever kind
        finds them, and a query has the same results alone as in a batch.
        """
        vectors = validated_query_vectors(vectors, dim=self.dim, top_k=top_k)
        kept = min(top_k, len(self) - len(deleted))
        best = np.full((len(vectors), kept), -np.inf, np.float32)
        if not kept or not len(vectors):
            return [[] for _ in vectors], best
        count = min(kept + _SPARE + min(kept, len(deleted)), len(self))
        if is_flat(self._index) and len(vectors) > 1:
            proposed = search_flat(self._index, vectors, count)
            found = [
                self._best(vector, kept, count, deleted, candidates)
                for vector, candidates in zip(vectors, proposed, strict=True)
            ]
        else:
            found = in_threads(
                lambda query: self._best(vectors[query], kept, count, deleted), len(vectors)
            )
        for row, (_, scores) in zip(best, found, strict=True):
            row[: len(scores)] = scores
        return [ids for ids, _ in found], best

    def _best(
        self,
        query: FloatArray,
        kept: int,
        count: int,
        deleted: Collection[str],
        candidates: Candidates | None = None,
    ) -> tuple[list[str], FloatArray]:
        """The `kept` best ids for one query and their scores, from `count` candidates or more.

        More are asked for until the last one is clearly worse than the last one kept.
        """
        while True:
            if candidates is None:
                candidates = search_one(
                    self._index, query, count, with_vectors=self._stored is None
                )
            rows, scores, exhausted, vectors = candidates
            if vectors is None:
                assert self._stored is not None
                vectors = self._stored[rows]
            live: Any = slice(None)
            if deleted:
                live = np.array([each not in deleted for each in self.ids.at(rows)], bool)
            rows, live_scores, vectors = rows[live], scores[live], vectors[live]
            if exhausted or count == len(self):
                break
            if len(rows) >= kept:
                margin = rounding_margin(vectors, query)
                if live_scores[kept - 1] - scores[-1] > margin:
                    break
            count, candidates = min(2 * count, len(self)), None
        return self._first(rows, inner_products(vectors, query), kept)

    def _first(
        self, rows: npt.NDArray[np.int64], scores: FloatArray, kept: int
    ) -> tuple[list[str], FloatArray]:
        """The ids of the `kept` highest scores and these, best first, ties by id."""
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= scores[order[:kept][-1:]].min(initial=np.inf)]
        ids, scores = self.ids.at(rows[order]), scores[order]
        if (scores[1:] == scores[:-1]).any():
            # sorting keeps equal scores in place
            ids = [each for _, each in sorted(zip((-scores).tolist(), ids, strict=True))]
        return ids[:kept], scores[:kept]

    def vectors(self) -> FloatArray:
        """The vectors (count, dim) in the order of `ids`, exactly as they were given."""
        return self._reconstructed(0, len(self)) if self._originals is None else self._originals

    def _reconstructed(self, start: int, count: int) -> FloatArray:
        import faiss

        ivf = faiss.try_extract_index_ivf(self._index)
        if ivf is not None:
            ivf.make_direct_map()
        vectors: FloatArray = self._index.reconstruct_n(start, count)
        return vectors

    def save(self, folder: str | Path) -> None:
        """Writes the folder's files; `ann.json` comes last and makes them valid."""
        faiss: Any = import_module("faiss")

        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("ann.json", "index.faiss", _ORIGINALS):
                # never into an old file: it may be mapped, or a link to another index's
                (folder / name).unlink(missing_ok=True)
            with (folder / "index.faiss").open("wb") as target:
                # FAISS itself says nothing where the last bytes find no room on the disk
                faiss.write_index(self._index, faiss.PyCallbackIOWriter(target.write))
            PackedIds.from_ids(self.ids).save(folder)
            if self._originals is not None:
                # FAISS compresses them, and a merge with other vectors must not do so twice
                np.save(folder / _ORIGINALS, self._originals)
            size = (folder / "index.faiss").stat().st_size
            info = AnnInfo(self.kind, len(self), self.dim, self.source, size)
            write_whole(folder / "ann.json", f"{json.dumps(asdict(info), indent=2)}\n".encode())
        except (OSError, RuntimeError) as error:
            raise StoreError(
                f"cannot write the ANN index to {folder}: {reason(error)}. Make room on the disk "
                "or choose another place"
            ) from error

    @classmethod
    def load(cls, folder: str | Path) -> FaissIndex:
        """Reads what `save` wrote; raises `DirectoryError` if absent, `StoreError` if damaged."""
        import faiss

        info = AnnInfo.read(folder)
        file = Path(folder) / "index.faiss"
        if not file.is_file() or file.stat().st_size != info.index_bytes:
            raise StoreError(f"{file} is cut short or not the one of ann.json: build it again")
        try:
            # what is read of it is read through the memory map
            index = faiss.read_index(utf8_path(file), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise StoreError(f"{file} is damaged ({reason(error)}): build it again") from error
        ids = PackedIds.load(Path(folder))
        if (len(ids), int(index.ntotal), int(index.d)) != (info.count, info.count, info.dim):
            raise StoreError(
                f"{folder} is damaged: {len(ids)} ids and {index.ntotal} vectors of {index.d}, "
                f"but ann.json says {info.count} of {info.dim}; build it again"
            )
        return cls(index, ids, info.kind, info.source, _originals(Path(folder), info))


def _originals(folder: Path, info: AnnInfo) -> FloatArray | None:
    """The vectors as they were given, where FAISS has compressed them."""
    file = folder / _ORIGINALS
    if not file.is_file():
        return None
    try:
        vectors: FloatArray = np.load(file, mmap_mode="r")
        if vectors.shape != (info.count, info.dim):
            raise ValueError(f"{vectors.shape}, not {(info.count, info.dim)}")
    except (OSError, EOFError, ValueError) as error:
        raise StoreError(f"{file} is damaged ({error}): build it again") from error
    return vectors


def validated_vectors(vectors: FloatArray, *, count: int) -> FloatArray:
    """Vectors (count, dim) as contiguous float32; SettingsError for other shapes, NaN, infinity."""
    if np.ndim(vectors) != 2 or len(vectors) != count:
        raise SettingsError(f"vectors must be (ids, dim) for {count} ids, got {np.shape(vectors)}")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    parts = range(0, count, _ROWS_AT_ONCE)
    if not all(np.isfinite(vectors[start : start + _ROWS_AT_ONCE]).all() for start in parts):
        raise SettingsError("vectors must be finite, got NaN or infinity")
    return vectors


def validated_query_vectors(vectors: FloatArray, *, dim: int, top_k: int) -> FloatArray:
    """Query vectors (queries, dim), and a top_k of 1 or more."""
    if top_k < 1:
        raise SettingsError(f"top_k must be 1 or more, got {top_k}")
    vectors = validated_vectors(vectors, count=len(vectors))
    if vectors.shape[1] != dim:
        raise SettingsError(
            f"query vectors must have the index's {dim} numbers, got {vectors.shape[1]}"
        )
    return vectors
