"""The first stage: nearest passages by inner product of unit vectors, with FAISS."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
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

    def __init__(self, index: Any, ids: PackedIds, kind: str, source: VectorSource) -> None:
        self._index = index
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
        checked_keys(ids)
        vectors = checked_vectors(vectors, count=len(ids))
        if not len(ids) or not vectors.shape[1]:
            raise SettingsError(f"an ANN index needs vectors, got {vectors.shape}")
        if len(set(ids)) < len(ids):
            repeated = Counter(ids).most_common(1)[0][0]
            raise SettingsError(f"the passage id {repeated!r} is given twice: ids must be unique")
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
        return cls(index, PackedIds.of(ids), kind, source or VectorSource())

    def search(self, vectors: FloatArray, top_k: int) -> tuple[list[list[str]], FloatArray]:
        """Ids of the largest inner products for each of vectors (queries, dim), and these.

        Best first, ties by id. Scores are (queries, min(top_k, count)); where an approximate
        kind finds fewer, the query's list is shorter and its last scores are -inf.
        """
        vectors = checked_query_vectors(vectors, dim=self.dim, top_k=top_k)
        kept = min(top_k, len(self))
        scores, rows = self._search_past_ties(vectors, kept)
        ids = []
        for query in range(len(vectors)):
            found = [self.ids[row] for row in rows[query].tolist() if row >= 0]
            best = scores[query, : len(found)]
            if (best[1:] == best[:-1]).any():
                # FAISS leaves ties in no order of ours; sorting keeps equal scores in place
                found = [each for _, each in sorted(zip((-best).tolist(), found, strict=True))]
            ids.append(found[:kept])
        return ids, scores[:, :kept].copy()

    def _search_past_ties(
        self, vectors: FloatArray, kept: int
    ) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """Goes on until the last score found is below the last one kept, or nothing is left."""
        found = kept
        while True:
            found = min(2 * found if found > kept else kept + 1, len(self))
            scores, rows = self._search(vectors, found)
            # FAISS marks what it did not find with row -1
            scores[rows < 0] = -np.inf
            cut_a_tie = (scores[:, kept - 1] == scores[:, -1]) & (rows[:, -1] >= 0)
            if found == len(self) or not cut_a_tie.any():
                return scores, rows

    def _search(self, vectors: FloatArray, count: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        # untyped: FAISS's stubs do not know its search parameters
        faiss: Any = import_module("faiss")
        parameters = None
        if isinstance(self._index, faiss.IndexHNSW):
            # fewer than `count` would leave places empty
            parameters = faiss.SearchParametersHNSW(efSearch=max(HNSW_EFFORT, count))
        scores, rows = self._index.search(vectors, count, params=parameters)
        return scores, rows

    def vectors(self) -> FloatArray:
        """The vectors (count, dim) in the order of `ids`, as FAISS kept them.

        Exact for flat, hnsw and ivf. StoreError for kinds that cannot give them back.
        """
        import faiss

        ivf = faiss.try_extract_index_ivf(self._index)
        try:
            if ivf is not None:
                ivf.make_direct_map()
            vectors: FloatArray = self._index.reconstruct_n(0, len(self))
        except RuntimeError as error:
            raise StoreError(
                f"an ANN index of kind {self.kind!r} does not give its vectors back: "
                "embed the passages again"
            ) from error
        return vectors

    def save(self, folder: str | Path) -> None:
        """Writes the folder's files; `ann.json` comes last and makes them valid."""
        import faiss

        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "ann.json").unlink(missing_ok=True)
            faiss.write_index(self._index, str(folder / "index.faiss"))
            PackedIds.of(self.ids).save(folder)
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
            index = faiss.read_index(str(file))
        except RuntimeError as error:
            raise StoreError(f"{file} is damaged ({_reason(error)}): build it again") from error
        ids = PackedIds.load(Path(folder))
        if (len(ids), int(index.ntotal), int(index.d)) != (info.count, info.count, info.dim):
            raise StoreError(
                f"{folder} is damaged: {len(ids)} ids and {index.ntotal} vectors of {index.d}, "
                f"but ann.json says {info.count} of {info.dim}; build it again"
            )
        return cls(index, ids, info.kind, info.source)


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
