"""What must be true of an index whatever happened to it, and what it holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import DirectoryError
from dipair_index.records import Passage
from dipair_index.rerank.index import DiPairIndex
from dipair_index.stores.index_directory import Layout
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.snapshot import Snapshot
from dipair_index.stores.verification import verify_index

Held = dict[str, Passage] | None
"""What an index holds; None where there is none yet."""

QUERIES = ["why does dough rise", "how bees dance in winter", "the moon and the tide"]


def held(index_dir: Path, encoder: DualEncoder) -> dict[str, Passage]:
    """The passages of an index, which is whole: each text finds its own passage."""
    assert list(verify_index(index_dir)) == []
    with Snapshot.open(index_dir) as snapshot:
        passages = snapshot.passages(list(snapshot))
    with DiPairIndex.open(index_dir, encoder) as index:
        nearest = index.search([each.full_text for each in passages], top_k=1, rerank=False)
    for passage, (found,) in zip(passages, nearest, strict=True):
        assert (found.id, found.text) == (passage.passage_id, passage.text)
        assert found.score > 0.999
    return {passage.passage_id: passage for passage in passages}


def found(index_dir: Path, encoder: DualEncoder) -> Held:
    """What the index holds; it can be opened, unless there never was one."""
    if not Layout(index_dir).manifest.exists():
        with pytest.raises(DirectoryError, match="there is no index at|it has no manifest"):
            DiPairIndex.open(index_dir, encoder)
        return None
    return held(index_dir, encoder)


def answers(index_dir: Path, encoder: DualEncoder) -> list[list[tuple[object, ...]]]:
    """The ranking of all passages for some queries, scores to the last bit."""
    with DiPairIndex.open(index_dir, encoder) as index:
        count = max(1, len(index))
        rankings = index.search(QUERIES, top_k=count, candidates=count, raw_scores=True)
    return [
        [(passage.id, passage.text, passage.score, passage.retrieval_score) for passage in ranking]
        for ranking in rankings
    ]


def assert_nothing_is_left_over(index_dir: Path) -> None:
    """The next writer removes whatever an ended one has left."""
    IndexWriter(index_dir).close()
    layout, parts = Layout(index_dir), Manifest.read(index_dir).parts
    assert set(os.listdir(index_dir)) == {"manifest.json", "parts", "writer.lock"}
    assert set(os.listdir(layout.parts)) == {part.name for part in parts}
    for part in parts:
        names = {"tokens", "passages", "ann", "texts.npy", "files.json", part.deleted_file} - {""}
        assert set(os.listdir(layout.part(part.name).root)) == names
