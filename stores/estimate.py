"""Estimates of an index before it is built: bytes on disk, memory and time."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from dipair_index.errors import SettingsError
from dipair_index.stores.codecs import open_codec
from dipair_index.stores.faiss_kinds import code_bytes
from dipair_index.stores.index_info import IndexInfo
from dipair_index.stores.names import DEFAULT_CODEC, STORE_NAMES
from dipair_index.words import counted

# Measured with the bundled model on passages of MS MARCO and two CPU cores; tables and commands
# are in benchmarks/RESULTS.md. Units: bytes, bytes per passage, seconds, seconds per passage.
TEXT_BYTES = 581
ID_BYTES = 15
STORE_BYTES = {"lmdb": 50, "tensorstore": 20}
"""Bytes that a store takes for each passage, besides its encoded tokens."""
HNSW_BYTES = 272
IVF_BYTES = 16
ENCODING = 1 / 45
WRITING = 6e-5
FLAT = 1.4e-6
HNSW, IVF = 3.7e-4, 4.9e-5
MEASURED_AT = 50_000
"""The passages with which HNSW and IVF were timed; their seconds per passage grow with these."""
BUILD_BASE = 730e6
BUILD_IDS = 770
"""Memory that a build keeps for each id."""
SEARCH_BASE = 600e6


@dataclass(frozen=True)
class SizeSettings:
    """The settings that determine the size of an index; the defaults are the bundled model's."""

    store: str = "lmdb"
    codec: str = DEFAULT_CODEC
    ann: str = "flat"
    max_passage_tokens: int = 32
    dim: int = 96
    vector_dim: int = 384


class Estimate(NamedTuple):
    """The estimated bytes on disk, peak bytes and seconds of an index of `passages`.

    `sizes` has tokens, vectors (with ids), texts and their total; `peaks` the disk and the memory
    of a build, and the memory of a search without the memory-mapped tokens; `seconds` the time to
    encode, to write and to index, None for kinds of FAISS index that were not measured.
    """

    passages: int
    settings: SizeSettings
    source: str
    sizes: dict[str, float]
    peaks: dict[str, float]
    seconds: dict[str, float | None]

    def record(self) -> dict[str, Any]:
        """Returns a dictionary for JSON, with bytes as integers."""
        return {
            **self._asdict(),
            "settings": asdict(self.settings),
            "sizes": {name: round(size) for name, size in self.sizes.items()},
            "peaks": {name: round(size) for name, size in self.peaks.items()},
        }


@dataclass(frozen=True)
class Basis:
    """The basis of an estimate: the constants above, or the sizes of an existing index."""

    settings: SizeSettings = SizeSettings()
    index: IndexInfo | None = None
    source: str = "figures measured on MS MARCO with the bundled model and two CPU cores"

    @classmethod
    def from_index(cls, root: str | Path) -> Basis:
        """Returns the sizes and settings of the index at `root`; the constants if it is empty.

        Raises `DirectoryError` and `StoreError` as `IndexInfo.read` does.
        """
        found = IndexInfo.read(root)
        manifest = found.manifest
        settings = SizeSettings(
            manifest.store,
            manifest.codec,
            manifest.ann_kind,
            manifest.kept_tokens,
            manifest.dim,
            manifest.vector_dim,
        )
        if not found.stored:
            return cls(settings)
        known = f"the bytes of {counted(found.stored, 'passage')} in {root}"
        return cls(settings, found, f"{known}; memory and time by {cls.source}")

    def estimate(self, passages: int, **chosen: Any) -> Estimate:
        """Estimates an index of `passages` passages.

        `chosen` are fields of `SizeSettings` that differ from those of the basis; the sizes that
        depend on them are computed, the others are scaled from the index. Raises `SettingsError` if
        a store, codec or kind of FAISS index is unknown.
        """
        settings = replace(self.settings, **chosen)
        tokens: float = passages * _token_bytes(settings)
        vectors = _vector_bytes(settings, passages)
        texts: float = passages * TEXT_BYTES
        if self.index:
            share = passages / self.index.stored
            texts = share * self.index.sizes.texts
            if not chosen.keys() & {"ann", "vector_dim"}:
                vectors = share * self.index.sizes.vectors
            if not chosen.keys() & {"store", "codec", "max_passage_tokens", "dim"}:
                tokens = share * self.index.sizes.tokens
        total = tokens + vectors + texts
        copied = passages * 4 * settings.vector_dim
        return Estimate(
            passages,
            settings,
            self.source,
            sizes={"tokens": tokens, "vectors": vectors, "texts": texts, "total": total},
            peaks={
                # vectors are in a temporary file until all passages are encoded
                "disk while building": total + copied,
                "memory while building": BUILD_BASE
                + vectors
                + passages * (settings.vector_dim + BUILD_IDS),
                "memory while searching": SEARCH_BASE + vectors,
            },
            seconds={
                "encode": passages * ENCODING,
                "write": passages * WRITING,
                "index the vectors": _ann_seconds(settings.ann, passages),
            },
        )


def _token_bytes(settings: SizeSettings) -> int:
    """Returns the bytes of one passage's tokens."""
    if settings.store not in STORE_NAMES:
        raise SettingsError(
            f"unknown store {settings.store!r}: choose one of {', '.join(STORE_NAMES)}"
        )
    codec = open_codec(
        settings.codec, tokens_per_passage=settings.max_passage_tokens, dim=settings.dim
    )
    return codec.bytes_per_passage + STORE_BYTES[settings.store]


def _vector_bytes(settings: SizeSettings, passages: int) -> float:
    """Returns the bytes of all vectors with their ids."""
    dim, kind = settings.vector_dim, settings.ann
    exact = 4 * dim
    if kind == "flat":
        each, once = exact, 0.0
    elif kind == "hnsw":
        each, once = exact + HNSW_BYTES, 0.0
    elif kind == "ivf":
        each, once = exact + IVF_BYTES, 4 * math.sqrt(passages) * exact
    else:
        codes = code_bytes(kind, dim)
        # if the codes are lossy, the original vectors are stored as well
        each, once = codes + (exact if codes < exact else 0), 0.0
    return passages * (each + ID_BYTES) + once


def _ann_seconds(kind: str, passages: int) -> float | None:
    growth = passages / MEASURED_AT
    if kind == "flat":
        return passages * FLAT
    if kind == "hnsw":
        return passages * HNSW * max(1.0, 1 + math.log(growth, MEASURED_AT))
    # 4 * sqrt(passages) lists, and each vector is compared with all of them
    return passages * IVF * math.sqrt(growth) if kind == "ivf" else None
