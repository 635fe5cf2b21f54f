"""The first stage: a FAISS index that finds the nearest passages by inner product."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dipair_index.errors import FormatError, SettingsError, StoreError
from dipair_index.files import utf8_path, write_whole
from dipair_index.locks import ForkSafeLock
from dipair_index.records import FloatArray
from dipair_index.stores.ann_info import AnnInfo, VectorSource
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
from dipair_index.stores.wanted_rows import Accepts, WantedRows
from dipair_index.threads import answer_after_fork
from dipair_index.words import counted

_ORIGINALS = "vectors.npy"
_ROWS_AT_ONCE = 65_536
_SPARE = 32
"""Candidates requested from FAISS beyond those that are returned; longer ties are rare."""
_EXACT_SHARE = 8
"""A filter that leaves too few candidates of 1/8 of the vectors is applied to all of them."""


class FaissIndex:
    """Finds passage ids by vector; scores are inner products. Approximate kinds may miss some."""

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
        self._mapping = ForkSafeLock()
        self.ids = ids
        self.kind = kind
        self.source = source

    @property
    def dim(self) -> int:
        """The dimensions of a vector."""
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
        """Builds an index of `vectors`, (ids, dim).

        `kind` is `flat` (exact), `hnsw`, `ivf` or a FAISS factory string. Raises `FormatError` if
        an id is repeated, and `SettingsError` if FAISS does not know the kind or cannot search it
        by inner product, or if there are too few vectors to train it.
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
                raise FormatError(f"the passage id {repeated!r} is given twice: ids must be unique")
        index = new_index(kind, *vectors.shape, seed=seed)
        try:
            if not index.is_trained:
                index.train(vectors)
            index.add(vectors)
        except (RuntimeError, MemoryError) as error:
            raise SettingsError(
                f"FAISS cannot build {kind!r} from {counted(len(ids), 'vector')} "
                f"({reason(error)}): "
                "use flat or hnsw, or give more passages"
            ) from error
        built = cls(index, PackedIds.from_ids(ids), kind, source or VectorSource())
        if built._stored is None and not built._gives_back(vectors):
            built._originals = built._stored = vectors
        return built

    def _gives_back(self, vectors: FloatArray) -> bool:
        """Returns whether FAISS stores all vectors without loss."""
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
        self,
        vectors: FloatArray,
        top_k: int,
        *,
        deleted: Collection[str] = frozenset(),
        accepts: Accepts | None = None,
    ) -> tuple[list[list[str]], FloatArray]:
        """Returns the ids and the scores of the nearest passages of each vector, (queries, dim).

        Results are best first, ties by id, without the ids in `deleted`, all of which must be in
        the index, and without those that `accepts` refuses. Scores are (queries, k) with
        k = min(top_k, number of live passages); if fewer are found, by an approximate kind or since
        few are accepted, the query's list of ids is shorter and its last scores are -inf. With
        `accepts`, fewer than k are found only if no more are accepted. Equal vectors have equal
        scores for every kind, and a query has the same results alone as in a batch. Raises
        `SettingsError` if `top_k` or the shape of `vectors` is wrong.
        """
        vectors = validated_query_vectors(vectors, dim=self.dim, top_k=top_k)
        kept = min(top_k, len(self) - len(deleted))
        best = np.full((len(vectors), kept), -np.inf, np.float32)
        if not kept or not len(vectors):
            return [[] for _ in vectors], best
        count = min(kept + _SPARE + min(kept, len(deleted)), len(self))
        wanted = WantedRows(deleted, accepts)
        if is_flat(self._index) and len(vectors) > 1:
            proposed = search_flat(self._index, vectors, count)
            found = [
                self._best(vector, kept, count, wanted, candidates)
                for vector, candidates in zip(vectors, proposed, strict=True)
            ]
        else:
            found = in_threads(
                lambda query: self._best(vectors[query], kept, count, wanted), len(vectors)
            )
        for row, (_, scores) in zip(best, found, strict=True):
            row[: len(scores)] = scores
        return [ids for ids, _ in found], best

    def _best(
        self,
        query: FloatArray,
        kept: int,
        count: int,
        wanted: WantedRows,
        candidates: Candidates | None = None,
    ) -> tuple[list[str], FloatArray]:
        """Returns the `kept` best ids for one query and their scores.

        FAISS is asked for `count` candidates, and for more until the last candidate is worse than
        the last kept one by more than the rounding margin.
        """
        while True:
            if candidates is None:
                candidates = search_one(
                    self._index, query, count, with_vectors=self._stored is None
                )
            rows, scores, exhausted, vectors = candidates
            live = wanted.among(rows, self.ids)
            rows, live_scores = rows[live], scores[live]
            if (
                len(rows) < kept
                and wanted.filters
                and (exhausted or _EXACT_SHARE * count >= len(self))
            ):
                rows = self._wanted_rows(wanted)
                vectors = self.vectors_at(rows)
                break
            if vectors is None:
                assert self._stored is not None
                vectors = self._stored[rows]
            else:
                vectors = vectors[live]
            if exhausted or count == len(self):
                break
            if len(rows) >= kept:
                margin = rounding_margin(vectors, query)
                if live_scores[kept - 1] - scores[-1] > margin:
                    break
            count, candidates = min(2 * count, len(self)), None
        return self._first(rows, inner_products(vectors, query), kept)

    def _wanted_rows(self, wanted: WantedRows) -> npt.NDArray[np.int64]:
        """Returns all rows that are wanted, ascending."""
        starts = range(0, len(self), _ROWS_AT_ONCE)
        chunks = [np.arange(start, min(start + _ROWS_AT_ONCE, len(self))) for start in starts]
        return np.concatenate([rows[wanted.among(rows, self.ids)] for rows in chunks])

    def _first(
        self, rows: npt.NDArray[np.int64], scores: FloatArray, kept: int
    ) -> tuple[list[str], FloatArray]:
        """Returns the ids of the `kept` highest scores and these, best first, ties by id."""
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= scores[order[:kept][-1:]].min(initial=np.inf)]
        ids, scores = self.ids.at(rows[order]), scores[order]
        if (scores[1:] == scores[:-1]).any():
            # sorting permutes ids among equal scores only, so `scores` stay in order
            ids = [each for _, each in sorted(zip((-scores).tolist(), ids, strict=True))]
        return ids[:kept], scores[:kept]

    def vectors(self) -> FloatArray:
        """Returns the vectors (count, dim) in the order of `ids`, exactly as they were given."""
        return self._reconstructed(0, len(self)) if self._originals is None else self._originals

    def vectors_at(self, rows: npt.NDArray[np.int64]) -> FloatArray:
        """Returns the vectors (rows, dim) of some rows."""
        if self._stored is not None:
            return self._stored[rows]
        with self._mapping:
            self._map_rows()
        vectors: FloatArray = self._index.reconstruct_batch(rows)
        return vectors

    def _reconstructed(self, start: int, count: int) -> FloatArray:
        self._map_rows()
        vectors: FloatArray = self._index.reconstruct_n(start, count)
        return vectors

    def _map_rows(self) -> None:
        """Has an inverted file find its vectors by row; once is enough."""
        import faiss

        ivf = faiss.try_extract_index_ivf(self._index)
        if ivf is not None:
            ivf.make_direct_map()

    def save(self, folder: str | Path) -> None:
        """Writes the index into `folder`; `ann.json` comes last and makes it valid.

        Raises `StoreError` if a file cannot be written.
        """
        faiss: Any = import_module("faiss")

        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("ann.json", "index.faiss", _ORIGINALS):
                # never into an old file, which may be mapped, or hard-linked to another index's
                (folder / name).unlink(missing_ok=True)
            with (folder / "index.faiss").open("wb") as target:
                # FAISS itself reports no error if the disk is full when it writes the last bytes
                faiss.write_index(self._index, faiss.PyCallbackIOWriter(target.write))
            PackedIds.from_ids(self.ids).save(folder)
            if self._originals is not None:
                # FAISS stores them with loss, and a merge must not lose precision twice
                np.save(folder / _ORIGINALS, self._originals)
            size = (folder / "index.faiss").stat().st_size
            info = AnnInfo(self.kind, len(self), self.dim, self.source, size)
            write_whole(folder / "ann.json", f"{json.dumps(asdict(info), indent=2)}\n".encode())
        except (OSError, RuntimeError) as error:
            raise StoreError(
                f"cannot write the ANN index to {folder}: {reason(error)}. Make room on the disk "
                "or choose another folder"
            ) from error

    @classmethod
    def load(cls, folder: str | Path) -> FaissIndex:
        """Reads an index from `folder`.

        Raises `DirectoryError` if there is none, and `StoreError` if it is damaged.
        """
        import faiss

        info = AnnInfo.read(folder)
        file = Path(folder) / "index.faiss"
        if not file.is_file() or file.stat().st_size != info.index_bytes:
            raise StoreError(f"{file} does not have the size that ann.json gives: build it again")
        try:
            # vectors are read through a memory map
            index = faiss.read_index(utf8_path(file), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise StoreError(f"{file} is damaged ({reason(error)}): build it again") from error
        ids = PackedIds.load(Path(folder))
        if (len(ids), int(index.ntotal), int(index.d)) != (info.count, info.count, info.dim):
            raise StoreError(
                f"{folder} is damaged: it holds {counted(len(ids), 'id')} and "
                f"{counted(index.ntotal, 'vector')} of {index.d} dimensions, but ann.json says "
                f"{info.count:,} of {info.dim}: build it again"
            )
        return cls(index, ids, info.kind, info.source, _originals(Path(folder), info))


def _originals(folder: Path, info: AnnInfo) -> FloatArray | None:
    """Returns the original vectors if FAISS stores them with loss, otherwise None."""
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
    """Returns vectors (count, dim) as contiguous float32.

    Raises `SettingsError` if the shape is wrong, or if a number is NaN or infinite.
    """
    if np.ndim(vectors) != 2 or len(vectors) != count:
        raise SettingsError(
            f"vectors must be (ids, dim) for {counted(count, 'id')}, got {np.shape(vectors)}"
        )
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    starts = range(0, count, _ROWS_AT_ONCE)
    if not all(np.isfinite(vectors[start : start + _ROWS_AT_ONCE]).all() for start in starts):
        raise SettingsError("vectors must be finite, got NaN or infinity")
    return vectors


def validated_query_vectors(vectors: FloatArray, *, dim: int, top_k: int) -> FloatArray:
    """Returns query vectors (queries, dim) as contiguous float32.

    Raises `SettingsError` as `validated_vectors` does, or if `top_k` is below 1.
    """
    if top_k < 1:
        raise SettingsError(f"top_k must be 1 or more, got {top_k}")
    vectors = validated_vectors(vectors, count=len(vectors))
    if vectors.shape[1] != dim:
        raise SettingsError(
            f"query vectors must have the index's {dim} dimensions, got {vectors.shape[1]}"
        )
    return vectors
