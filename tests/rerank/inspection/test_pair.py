"""How a logit splits, which tokens meet, and how alike tokens are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.rerank.inspection.pair import (
    Redundancy,
    inspect_pair,
    split_logits,
    token_similarities,
)

QUERY, PASSAGE = "green tea in winter", "hot water and the leaves of tea make a drink"


def test_tokens_at_right_angles_have_a_full_rank() -> None:
    found = Redundancy.of(np.eye(4, 8, dtype=np.float32) * 3)
    assert (found.tokens, found.mean_cosine) == (4, pytest.approx(0))
    assert found.effective_rank == pytest.approx(4)


def test_equal_tokens_have_rank_one() -> None:
    rows = np.array([[1, 2], [2, 4], [0, 0], [3, 6]], np.float32)
    found = Redundancy.of(rows)
    assert found.tokens == 3
    assert found.mean_cosine == pytest.approx(1)
    assert found.effective_rank == pytest.approx(1, abs=1e-5)


def test_the_effective_rank_of_two_tokens_is_that_of_their_angle() -> None:
    cosine = 0.6
    found = Redundancy.of(np.array([[1, 0], [cosine, 0.8]], np.float32))
    values = np.sqrt([1 + cosine, 1 - cosine])
    shares = values / values.sum()
    assert found.mean_cosine == pytest.approx(cosine)
    assert found.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_no_token_has_no_rank() -> None:
    assert Redundancy.of(np.zeros((4, 8), np.float32)) == Redundancy(0, 0.0, 0.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"system": "aligned", "keep": "clusters"},
        {"system": "tsf", "similarity_residual": "maxsim"},
        {"system": "tsf", "similarity_residual": "none"},
        {"system": "ffnn", "similarity_residual": "cosine", "classes": 3},
        {"system": "maxsim"},
    ],
)
def test_the_parts_of_a_logit_add_up_and_the_similarity_is_the_heads_own(
    make_model: Callable[..., DualEncoder], settings: dict[str, object]
) -> None:
    encoder = make_model(**settings)
    asked = encoder.encode_queries([QUERY]).tokens[0]
    passages = encoder.encode_passages([PASSAGE, "ice", "the bees of the queen"]).tokens
    found = split_logits(encoder, asked, passages)
    whole = encoder.logits(asked, passages)
    for logit, expected in zip(found, whole, strict=True):
        assert logit.logit == pytest.approx(float(expected), abs=1e-4)
        assert logit.similarity + logit.added == pytest.approx(logit.logit, abs=1e-4)
    head, added = encoder.model.head, [each.added for each in found]
    if settings["system"] == "maxsim":
        np.testing.assert_allclose(added, 0, atol=1e-5)
    elif settings.get("similarity_residual") == "none":
        np.testing.assert_allclose([each.similarity for each in found], 0)
    elif settings["system"] == "aligned":
        with torch.no_grad():
            head.output.weight.zero_()
            head.output.bias.zero_()
        similar = [each.similarity for each in found]
        np.testing.assert_allclose(encoder.logits(asked, passages), similar, atol=1e-4)


def test_a_pair_is_inspected_as_its_tokens_are(make_model: Callable[..., DualEncoder]) -> None:
    encoder = make_model(system="aligned", keep="clusters")
    found = inspect_pair(encoder, QUERY, PASSAGE, None, nearest=3)
    asked = encoder.encode_queries([QUERY]).tokens[0]
    kept = encoder.encode_passages([PASSAGE]).tokens[0]
    centre = encoder.model.centre.detach().numpy()
    for each in found.meetings:
        products = [float(asked[each.token] @ (token + centre)) for token in kept if token.any()]
        assert each.similarity == pytest.approx(max(products), abs=1e-5)
        assert products[each.met] == pytest.approx(max(products), abs=1e-5)
    assert [each.norm for each in found.tokens] == pytest.approx(
        [float(np.linalg.norm(token)) for token in kept if token.any()], abs=1e-5
    )
    record = found.record()
    assert {"tokens", "similarity", "logit"} <= record.keys()
    assert record["tokens"]["query"][0].keys() == {"token", "words", "met", "similarity"}


def test_tokens_of_other_pooling_are_compared_by_cosine(
    make_model: Callable[..., DualEncoder],
) -> None:
    encoder = make_model(system="tsf")
    query = np.array([[3, 0], [0, 0]], np.float32)
    passage = np.array([[0, 0], [1, 1], [-2, 0]], np.float32)
    found = token_similarities(encoder, query, passage)
    np.testing.assert_allclose(found, [[np.sqrt(0.5), -1]], atol=1e-6)
