"""A set against itself, and which models score (a, b) as (b, a)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import SettingsError
from dipair_index.models.systems import SYSTEMS
from dipair_index.records import Passage
from dipair_index.rerank.build import build_index
from dipair_index.rerank.offline.match import match_indexes
from dipair_index.rerank.offline.symmetry import is_symmetric, reads_sides_alike

Rows = list[tuple[str, str, float]]
ALIKE = {"shared_projections": True, "query_length": 64, "passage_length": 64}


def kept(count: int) -> dict[str, int]:
    return {"max_query_tokens": count, "max_passage_tokens": count}


def is_symmetric_as_measured(encoder: DualEncoder) -> bool:
    """Whether random tokens score the same both ways."""
    sizes, random = encoder.sizes, np.random.default_rng(0)
    shape = sizes.max_query_tokens, sizes.dim
    one, other = random.normal(size=(2, 20, *shape)).astype(np.float32)
    there, back = (
        [
            encoder.logits(query, passage[np.newaxis])[0]
            for query, passage in zip(*both, strict=True)
        ]
        for both in ((one, other), (other, one))
    )
    return bool(np.allclose(there, back, rtol=1e-4, atol=1e-4))


@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("system", [name for name in SYSTEMS if name not in ("prettr", "aligned")])
def test_a_model_is_called_symmetric_if_its_scores_are(
    system: str, tokens: int, make_model: Callable[..., DualEncoder]
) -> None:
    encoder = make_model(system=system, **ALIKE, **kept(tokens))
    if encoder.sizes.max_query_tokens != encoder.sizes.max_passage_tokens:
        assert not reads_sides_alike(encoder)
        return
    assert reads_sides_alike(encoder)
    assert is_symmetric(encoder) == is_symmetric_as_measured(encoder)


@pytest.mark.parametrize("residual", ["cosine", "maxsim"])
@pytest.mark.parametrize("system", ["dse", "ffnn"])
def test_dense_layers_with_equal_weights_for_both_texts_are_symmetric(
    system: str, residual: str, make_model: Callable[..., DualEncoder]
) -> None:
    encoder = make_model(system=system, similarity_residual=residual, **ALIKE, **kept(2))
    width = encoder.sizes.max_query_tokens * encoder.sizes.dim
    assert not is_symmetric(encoder)
    with torch.no_grad():
        weight = encoder.model.head.layers[0].weight
        weight[:, width : 2 * width] = weight[:, :width]
    assert is_symmetric(encoder) == is_symmetric_as_measured(encoder)
    # dse keeps one token of a text, of which both similarities are the same
    assert is_symmetric(encoder) == (system == "dse" or residual == "cosine")


@pytest.mark.parametrize(
    "different",
    [
        {"shared_encoder": False},
        {"shared_projections": False},
        {"query_length": 32},
        {"query_prefix": "query: "},
        {"max_query_tokens": 2},
    ],
)
def test_sides_that_are_encoded_differently_are_not_alike(
    different: dict[str, Any], make_model: Callable[..., DualEncoder]
) -> None:
    encoder = make_model(**{**ALIKE, **kept(3), "system": "maxsim", **different})
    assert not reads_sides_alike(encoder)


def matched(
    encoder: DualEncoder, passages: list[Passage], folder: Path, **settings: Any
) -> dict[str, Path]:
    index = folder / "set"
    build_index(passages, index, encoder)
    match_indexes(index, index, folder / "out", **settings)
    return {"index": index, "out": folder / "out"}


@pytest.mark.parametrize("block_pairs", [30, 70, 10_000])
def test_a_symmetric_model_scores_each_unordered_pair_once(
    block_pairs: int,
    make_model: Callable[..., DualEncoder],
    passages: list[Passage],
    rows_in: Callable[[Path], Rows],
    tmp_path: Path,
) -> None:
    encoder = make_model(system="de-cos", **ALIKE)
    found = matched(encoder, passages, tmp_path, every=True, block_pairs=block_pairs)
    rows = rows_in(found["out"])
    ids = [passage.id for passage in passages]
    assert sorted(row[:2] for row in rows) == sorted(combinations(ids, 2))
    match_indexes(found["index"], found["index"], tmp_path / "best", every=True, top_k=2)
    scores = {frozenset(row[:2]): row[2] for row in rows}
    best = rows_in(tmp_path / "best")
    assert [row[0] for row in best] == [each for each in ids for _ in range(2)]
    for left, right, score in best:
        assert left != right
        assert score == pytest.approx(scores[frozenset((left, right))], abs=1e-6)
        others = sorted(scores[frozenset((left, each))] for each in ids if each != left)
        assert score >= others[-2] - 1e-6


def test_another_model_scores_each_ordered_pair(
    make_model: Callable[..., DualEncoder],
    passages: list[Passage],
    rows_in: Callable[[Path], Rows],
    tmp_path: Path,
) -> None:
    encoder = make_model(system="dse", **ALIKE)
    found = matched(encoder, passages[:9], tmp_path, every=True, block_pairs=20)
    rows = {row[:2]: row[2] for row in rows_in(found["out"])}
    ids = [passage.id for passage in passages[:9]]
    assert sorted(rows) == sorted(permutations(ids, 2))
    first, second = (encoder.encode_passages([each.full_text]).tokens for each in passages[:2])
    expected = 1 / (1 + np.exp(-encoder.logits(first[0], second)[0]))
    assert rows[ids[0], ids[1]] == pytest.approx(expected, abs=0.02)  # int8 tokens
    match_indexes(found["index"], found["index"], tmp_path / "near", nearest=3)
    near = rows_in(tmp_path / "near")
    assert len(near) == 27
    for left, right, score in near:
        assert rows[left, right] == pytest.approx(score, abs=1e-6)


def test_an_index_of_one_side_is_no_match_for_itself_if_the_sides_differ(
    sides: Any, tmp_path: Path
) -> None:
    with pytest.raises(
        SettingsError,
        match="holds texts of the side passage, but the model encodes queries and passages "
        "differently: build an index of the same texts with --side query, and match the two",
    ):
        match_indexes(sides.right, sides.right, tmp_path / "out", every=True)
    assert not (tmp_path / "out").exists()
