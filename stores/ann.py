"""The first stage: nearest passages by inner product of unit vectors, with FAISS."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dipair_index.errors import IndexDirectoryError, SettingsError, StoreError
from dipair_index.records import FloatArray
from dipair_index.stores.exact import ExactIndex, checked_query_vectors, checked_vectors
from dipair_index.stores.packed_ids import PackedIds
from dipair_index.stores.token_store import checked_keys

__all__ = ["ANN_FORMAT_VERSION", "AnnInfo", "ExactIndex", "FaissIndex", "VectorSource"]

ANN_FORMAT_VERSION = 1
HNSW_NEIGHBOURS = 32
HNSW_EFFORT = 200
"""Candidates looked at while the graph is built, and the least while it is searched."""
_ORIGINALS = "vectors.npy"
_COMPARED = 16
_IDS_AT_ONCE = 65_536
TRAINING_VECTORS_PER_LIST = 39
"""Below this FAISS warns that a cluster has too few points."""


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
        """IndexDirectoryError where there is none, where it is damaged or of a newer format."""
        file = Path(folder) / "ann.json"
        try:
            values = json.loads(file.read_text("utf-8"))
            version = values["format_version"]
            if version == ANN_FORMAT_VERSION:
                return cls(**{**values, "source": VectorSource(**values["source"])})
        except FileNotFoundError as error:
            raise IndexDirectoryError(f"there is no ANN index in {folder}: no ann.json") from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise IndexDirectoryError(f"{file} is damaged ({error}): build it again") from error
        raise IndexDirectoryError(
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
        self._index = index
        self._originals = originals
        self.ids: Sequence[str] = ids
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
        for start in range(0, len(ids), _IDS_AT_ONCE):
            checked_keys(ids[start : start + _IDS_AT_ONCE])
        vectors = checked_vectors(vectors, count=len(ids))
        if not len(ids) or not vectors.shape[1]:
            raise SettingsError(f"an ANN index needs vectors, got {vectors.shape}")
        # eight bytes an id: equal ids have equal hashes, and few others have
        if len(np.unique(np.fromiter(map(hash, ids), np.int64, len(ids)))) < len(ids):
            repeated, times = Counter(ids).most_common(1)[0]
            if times > 1:
                raise SettingsError(
                    f"the passage id {repeated!r} is given twice: ids must be unique"
                )
        index = _new_index(kind, *vectors.shape, seed=seed)
        try:
            if not index.is_trained:
                index.train(vectors)
            index.add(vectors)
        except RuntimeError as error:
            raise SettingsError(
                f"FAISS cannot build {kind!r} from {len(ids)} vectors ({_reason(error)}): "
                "use flat or hnsw, or give more passages"
            ) from error
        built = cls(index, PackedIds.of(ids), kind, source or VectorSource())
        if not built._gives_back(vectors[:_COMPARED]):
            built._originals = vectors
        return built

    def _gives_back(self, vectors: FloatArray) -> bool:
        """Whether FAISS keeps the first vectors as they are."""
        try:
            return np.array_equal(self._reconstructed(len(vectors)), vectors)
        except RuntimeError:
            return False

    def search(
        self, vectors: FloatArray, top_k: int, *, deleted: Collection[str] = frozenset()
    ) -> tuple[list[list[str]], FloatArray]:
        """Ids of the largest inner products for each of vectors (queries, dim), and these.

        Best first, ties by id, none of the `deleted` ones, all of which are in the index. Scores
        are (queries, min(top_k, count)); where an approximate kind finds fewer, the query's list
        is shorter and its last scores are -inf.
        """
        vectors = checked_query_vectors(vectors, dim=self.dim, top_k=top_k)
        kept = min(top_k, len(self) - len(deleted))
        best = np.full((len(vectors), kept), -np.inf, np.float32)
        if not kept or not len(vectors):
            return [[] for _ in vectors], best
        ids = []
        scores, rows, live = self._search_past_ties(vectors, kept, deleted)
        for query, stays in enumerate(live):
            found = [self.ids[row] for row in rows[query, stays].tolist()]
            their = scores[query, stays]
            if (their[1:] == their[:-1]).any():
                # FAISS leaves ties in no order of ours; sorting keeps equal scores in place
                found = [each for _, each in sorted(zip((-their).tolist(), found, strict=True))]
            ids.append(found[:kept])
            best[query, : len(ids[-1])] = their[:kept]
        return ids, best

    def _search_past_ties(
        self, vectors: FloatArray, kept: int, deleted: Collection[str]
    ) -> tuple[FloatArray, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Scores, rows, and which of them are live, for at least `kept` live ones a query.

        Goes on until the last score found is below the last one kept, or nothing is left.
        """
        count = kept + 1 + min(kept, len(deleted))
        while True:
            count = min(count, len(self))
            scores, rows = self._search(vectors, count)
            # FAISS marks what it did not find with row -1
            live = rows >= 0
            if deleted:
                live[live] = [self.ids[row] not in deleted for row in rows[live].tolist()]
            kept_at = (np.cumsum(live, axis=1) >= kept).argmax(axis=1)
            past = scores[np.arange(len(scores)), kept_at] > scores[:, -1]
            whole = (past & (live.sum(axis=1) >= kept)) | (rows[:, -1] < 0)
            if count == len(self) or whole.all():
                return scores, rows, live
            count *= 2

    def _search(self, vectors: FloatArray, count: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        # untyped: FAISS's stubs do not know its search parameters
        faiss: Any = import_module("faiss")
        parameters = None
        if isinstance(self._index, faiss.IndexHNSW):
            # fewer than `count` would leave places empty
            parameters = faiss.SearchParametersHNSW(efSearch=max(HNSW_EFFORT, count))
        threads = faiss.omp_get_max_threads()
        # with more threads than queries, FAISS 1.15 takes four times as long over a flat index
        faiss.omp_set_num_threads(min(threads, len(vectors)))
        try:
            scores, rows = self._index.search(vectors, count, params=parameters)
        finally:
            faiss.omp_set_num_threads(threads)
        return scores, rows

    def vectors(self) -> FloatArray:
        """The vectors (count, dim) in the order of `ids`, exactly as they were given."""
        return self._reconstructed(len(self)) if self._originals is None else self._originals

    def _reconstructed(self, count: int) -> FloatArray:
        import faiss

        ivf = faiss.try_extract_index_ivf(self._index)
        if ivf is not None:
            ivf.make_direct_map()
        vectors: FloatArray = self._index.reconstruct_n(0, count)
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
            PackedIds.of(self.ids).save(folder)
            if self._originals is not None:
                # FAISS compresses them, and a merge with other vectors must not do so twice
                np.save(folder / _ORIGINALS, self._originals)
            size = (folder / "index.faiss").stat().st_size
            info = AnnInfo(self.kind, len(self), self.dim, self.source, size)
            part = folder / "ann.json.tmp"
            part.write_text(json.dumps(asdict(info), indent=2) + "\n", "utf-8")
            os.replace(part, folder / "ann.json")
        except (OSError, RuntimeError) as error:
            raise StoreError(
                f"cannot write the ANN index to {folder}: {_reason(error)}. Make room on the disk "
                "or choose another place"
            ) from error

    @classmethod
    def load(cls, folder: str | Path) -> FaissIndex:
        """What `save` wrote; IndexDirectoryError where there is none, StoreError for damage."""
        import faiss

        info = AnnInfo.read(folder)
        file = Path(folder) / "index.faiss"
        if not file.is_file() or file.stat().st_size != info.index_bytes:
            raise StoreError(f"{file} is cut short or not the one of ann.json: build it again")
        try:
            # what is read of it is read through the memory map
            index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise StoreError(f"{file} is damaged ({_reason(error)}): build it again") from error
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


def _new_index(kind: str, count: int, dim: int, *, seed: int) -> Any:
    """An empty index for `count` vectors."""
    faiss: Any = import_module("faiss")
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, HNSW_NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_EFFORT
        return index
    factory = _ivf_factory(count) if kind == "ivf" else kind
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise SettingsError(
            f"FAISS cannot make an index {kind!r}: choose flat, hnsw, ivf, or a FAISS factory "
            f"string for inner products such as IVF1024,Flat ({_reason(error)})"
        ) from error
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is not None:
        ivf.cp.seed = seed
        # one list in eight: fewer lose too much on unit vectors, which cluster badly
        ivf.nprobe = max(8, ivf.nlist // 8)
    return index


def _ivf_factory(count: int) -> str:
    """4 * sqrt(count) lists, or fewer where they could not be trained."""
    lists = min(round(4 * math.sqrt(count)), count // TRAINING_VECTORS_PER_LIST)
    if lists < 1:
        raise SettingsError(
            f"ivf needs at least {TRAINING_VECTORS_PER_LIST} vectors to train, got {count}: "
            "use flat"
        )
    return f"IVF{lists},Flat"


def _reason(error: Exception) -> str:
    """The end of what FAISS says, past its C++ signatures."""
    return str(error).split("Error: ")[-1].split(" at /")[-1].strip()
