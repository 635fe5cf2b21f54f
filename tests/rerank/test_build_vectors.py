"""Whose vectors FAISS holds, and those of another index taken over."""

from pathlib import Path

import numpy as np
import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import DirectoryError
from dipair_index.records import Passage
from dipair_index.rerank.build import build_index
from dipair_index.rerank.index import DiPairIndex
from dipair_index.stores.ann import FaissIndex
from dipair_index.stores.ann_info import AnnInfo
from dipair_index.stores.index_directory import Layout
from dipair_index.stores.manifest import Manifest


def test_another_encoders_vectors_retrieve(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage], tiny_encoder_dir: Path
) -> None:
    build_index(passages, tmp_path / "i", encoder, vectors=str(tiny_encoder_dir))
    with DiPairIndex.open(tmp_path / "i", encoder) as index:
        assert index.manifest.embedder == str(tiny_encoder_dir)
        found = index.search(passages[4].full_text, top_k=1, rerank=False, raw_scores=True)
    assert [(passage.id, round(passage.score, 4)) for passage in found] == [("p04", 1.0)]


def test_the_vectors_of_another_index_are_taken_over(
    tmp_path: Path,
    encoder: DualEncoder,
    passages: list[Passage],
    tiny_encoder_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = str(tiny_encoder_dir)
    build_index(passages, tmp_path / "first", encoder, vectors=name)
    monkeypatch.setattr(
        "dipair_index.encoders.sentence_embedders.TransformersEmbedder.embed_passages", _not_again
    )
    build_index(
        passages, tmp_path / "same", encoder, vectors=name, codec="float32",
        ann_from=tmp_path / "first",
    )  # fmt: skip
    build_index(
        passages, tmp_path / "graph", encoder, vectors=name, ann="hnsw",
        ann_from=ann_of(tmp_path / "first"),
    )  # fmt: skip

    bytes_of = {name: (ann_of(tmp_path / name) / "index.faiss").read_bytes()
                for name in ("first", "same")}  # fmt: skip
    assert bytes_of["first"] == bytes_of["same"]
    assert AnnInfo.read(ann_of(tmp_path / "graph")).kind == "hnsw"
    graph, flat = (FaissIndex.load(ann_of(tmp_path / name)) for name in ("graph", "first"))
    np.testing.assert_array_equal(graph.vectors(), flat.vectors())


def test_vectors_of_other_passages_or_another_encoder_are_not_taken_over(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage], tiny_encoder_dir: Path
) -> None:
    build_index(passages, tmp_path / "first", encoder)
    before = (ann_of(tmp_path / "first") / "index.faiss").read_bytes()
    with pytest.raises(DirectoryError, match="holds vectors of model .* pass --vectors model"):
        build_index(
            passages, tmp_path / "i", encoder, vectors=str(tiny_encoder_dir),
            ann_from=tmp_path / "first",
        )  # fmt: skip
    others = passages[1:], passages[:8], [*passages, passages[0]._replace(id="p99")]
    for corpus in others:
        with pytest.raises(
            DirectoryError, match="holds the vectors of 24 passages, which are others"
        ):
            build_index(
                corpus, tmp_path / "i", encoder, ann_from=tmp_path / "first", overwrite=True
            )
    changed = [passages[0]._replace(text="another text"), *passages[1:]]
    with pytest.raises(DirectoryError, match="holds the vectors of .*, which are others"):
        build_index(changed, tmp_path / "i", encoder, ann_from=tmp_path / "first", overwrite=True)
    assert (ann_of(tmp_path / "first") / "index.faiss").read_bytes() == before


def test_vectors_of_an_index_that_was_changed_are_taken_over_once_it_is_compacted(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage]
) -> None:
    build_index(passages, tmp_path / "first", encoder)
    with DiPairIndex.open(tmp_path / "first", encoder) as index:
        index.delete(["p03"])
        left = [passage for passage in passages if passage.passage_id != "p03"]
        with pytest.raises(DirectoryError, match="was changed .* run `dipair-index compact`"):
            build_index(left, tmp_path / "i", encoder, ann_from=tmp_path / "first")
        index.compact()
    build_index(left, tmp_path / "i", encoder, ann_from=tmp_path / "first")
    taken, first = (Manifest.read(tmp_path / name) for name in ("i", "first"))
    assert taken.passages_digest == first.passages_digest != ""
    np.testing.assert_array_equal(
        FaissIndex.load(ann_of(tmp_path / "i")).vectors(),
        FaissIndex.load(ann_of(tmp_path / "first")).vectors(),
    )


def ann_of(index_dir: Path) -> Path:
    """The ANN index of an index of one part."""
    return Layout(index_dir).part(Manifest.read(index_dir).parts[0].name).ann


def _not_again(self: object, texts: object) -> None:
    raise AssertionError("the vectors were to be taken over, not computed")
