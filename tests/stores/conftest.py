"""What the tests of the stores share."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from dipair_index.records import FloatArray, Passage
from dipair_index.stores.ann_info import VectorSource
from dipair_index.stores.backends import open_token_store
from dipair_index.stores.index_writer import IndexWriter, build_ann
from dipair_index.stores.manifest import Manifest, PartInfo
from dipair_index.stores.passages import PassageStore
from dipair_index.stores.snapshot import Snapshot

# before it is imported, so that its asserts show their values
pytest.register_assert_rewrite("dipair_index.stores.testing")

TOKENS, DIM = 3, 5


@pytest.fixture
def some_tokens() -> Callable[..., FloatArray]:
    def make(count: int, seed: int = 0, tokens: int = TOKENS, dim: int = DIM) -> FloatArray:
        values = np.random.default_rng(seed).normal(size=(count, tokens, dim))
        return values.astype(np.float32)

    return make


def exact_search(
    ids: Sequence[str], vectors: FloatArray, queries: FloatArray, top_k: int
) -> tuple[list[list[str]], FloatArray]:
    """What a search of all `vectors` must find: ids of the largest products, ties by id, and these.

    In float64 and without BLAS, whose rounding depends on the place of a vector: equal vectors
    have equal products.
    """
    exact = np.einsum("qd,nd->qn", queries.astype(np.float64), vectors.astype(np.float64))
    products = exact.astype(np.float32)
    best = [sorted(zip((-row).tolist(), ids, strict=True))[:top_k] for row in products]
    scores = np.array([[-score for score, _ in found] for found in best], np.float32)
    return [[each for _, each in found] for found in best], scores


class ToyIndex:
    """An index that no model has made: what is stored of a passage follows from its id.

    `seen` is all that a reader sees of it, and `expected` what it should see.
    """

    manifest = Manifest(
        package_version="0.1.0",
        model="default",
        model_fingerprint="0123456789abcdef",
        max_query_tokens=2,
        max_passage_tokens=TOKENS,
        dim=DIM,
        vector_dim=8,
        store="lmdb",
        codec="float32",
        embedder="model",
        embedder_fingerprint="0123456789abcdef",
        ann_kind="flat",
        seed=0,
    )
    queries = np.random.default_rng(7).normal(size=(3, 8)).astype(np.float32)

    def __init__(self, root: Path, *parts: Sequence[str], **settings: Any) -> None:
        self.root = root
        root.mkdir()
        with IndexWriter(root, new=True) as writer:
            writer.replace_manifest(replace(self.manifest, **settings))
        for ids in parts:
            self.add(ids)

    def add(self, ids: Sequence[str]) -> None:
        """Adds one part."""
        with IndexWriter(self.root) as writer:
            part = self.place(writer, ids)
            writer.replace_manifest(replace(writer.current, parts=(*writer.current.parts, part)))

    def place(self, writer: IndexWriter, ids: Sequence[str]) -> PartInfo:
        """Puts a part in its place that no manifest names."""
        manifest, part = writer.current, writer.layout.building
        part.create(manifest.store_url)
        with (
            open_token_store(
                manifest.store,
                part.tokens_location(),
                tokens_per_passage=TOKENS,
                dim=DIM,
                codec=manifest.codec,
            ) as tokens,
            PassageStore.open(part.passages) as passages,
        ):
            tokens.put(ids, self.tokens(ids))
            passages.put([self.passage(each) for each in ids])
        source = VectorSource("model", manifest.embedder_fingerprint, "some")
        build_ann(list(ids), self.vectors(ids), manifest, source).save(part.ann)
        return writer.install_part(part, len(ids), 1, "some", manifest)

    @staticmethod
    def passage(passage_id: str) -> Passage:
        return Passage(passage_id, f"text of {passage_id}", "", {"of": passage_id})

    @staticmethod
    def tokens(ids: Sequence[str]) -> FloatArray:
        made = [np.random.default_rng(crc32(each.encode())).normal(size=(TOKENS, DIM))
                for each in ids]  # fmt: skip
        return np.array(made, np.float32).reshape(-1, TOKENS, DIM)

    @staticmethod
    def vectors(ids: Sequence[str]) -> FloatArray:
        """Equal ones for ids of equal length, so that there are ties."""
        made = [np.random.default_rng(len(each)).normal(size=8) for each in ids]
        return np.array(made, np.float32).reshape(-1, 8)

    def seen(self, snapshot: Snapshot | None = None) -> dict[str, Any]:
        if snapshot is None:
            with Snapshot.open(self.root) as opened:
                return self.seen(opened)
        ids = list(snapshot)
        found, scores = snapshot.search(self.queries, 4)
        return {
            "ids": ids,
            "count": len(snapshot),
            "passages": snapshot.passages(ids[::-1]),
            "tokens": snapshot.tokens(ids[::-1]).tolist(),
            "found": found,
            "scores": np.round(scores, 4).tolist(),
        }

    def expected(self, ids: Sequence[str]) -> dict[str, Any]:
        found, scores = exact_search(ids, self.vectors(ids), self.queries, 4)
        return {
            "ids": list(ids),
            "count": len(ids),
            "passages": [self.passage(each) for each in ids[::-1]],
            "tokens": self.tokens(ids[::-1]).tolist(),
            "found": found,
            "scores": np.round(scores, 4).tolist(),
        }


@pytest.fixture
def toy_index() -> type[ToyIndex]:
    return ToyIndex


@pytest.fixture
def exact() -> Callable[..., tuple[list[list[str]], FloatArray]]:
    return exact_search
