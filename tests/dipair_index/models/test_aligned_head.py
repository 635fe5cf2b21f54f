"""The forms in which the aligned head is served, and its tokens; its twin is in test_heads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.encoders.onnx_encoder import OnnxEncoder
from dipair_index.errors import SettingsError
from dipair_index.models.aligned_head import AlignedHead, align
from dipair_index.models.config import DiPairConfig
from dipair_index.records import FloatArray
from dipair_index.rerank.encoder_scorer import EncoderScorer
from dipair_index.rerank.head import HeadScorer
from dipair_index.rerank.onnx_export import SAMPLES, export_onnx

ALIGNED = {
    "system": "aligned", "pooling": "linear", "max_query_tokens": 9,
    "max_passage_tokens": 5, "query_length": 9, "shared_projections": True,
    "head_attention_heads": 2, "head_dropout": 0.0,
}  # fmt: skip


def tokens(seed: int, texts: int, kept: int, present: int, dim: int = 16) -> torch.Tensor:
    """Tokens of texts, the first `present` of each; the others are absent."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.zeros(texts, kept, dim)
    rows[:, :present] = torch.randn(texts, present, dim, generator=generator) / 4
    return rows


@pytest.fixture(scope="module")
def encoder(make_model: Callable[..., DualEncoder]) -> DualEncoder:
    made = make_model(**ALIGNED)
    export_onnx(made)
    return made


@pytest.mark.parametrize("asked", [0, 1, 4, 9])
def test_all_forms_of_the_head_agree(encoder: DualEncoder, asked: int) -> None:
    query = tokens(3, 1, 9, asked)[0].numpy()
    passages = torch.cat([tokens(row, 1, 5, row % 6) for row in range(60)]).numpy()
    expected = encoder.logits(query, passages)
    assert np.isfinite(expected).all()
    for scorer in (HeadScorer(encoder.model), EncoderScorer(OnnxEncoder.open(encoder.name))):
        np.testing.assert_allclose(scorer.logits(query, passages), expected, atol=1e-4)


def test_several_queries_are_scored_as_each_alone(encoder: DualEncoder) -> None:
    scorer = HeadScorer(encoder.model)
    queries = torch.cat([tokens(row, 1, 9, row + 1) for row in range(4)]).numpy()
    passages = tokens(7, 6, 5, 4).numpy()
    together = scorer.logits(queries, passages)
    for query, logits in zip(queries, together, strict=True):
        np.testing.assert_allclose(logits, scorer.logits(query, passages), atol=1e-5)


def encoded(encoder: DualEncoder | OnnxEncoder, side: str) -> tuple[FloatArray, FloatArray]:
    found = encoder.encode_tokenised(encoder.tokenised(side, SAMPLES))
    return found.tokens, found.vectors


@pytest.mark.parametrize("side", ["query", "passage"])
def test_onnx_encodes_as_torch_does(encoder: DualEncoder, side: str) -> None:
    for made, expected in zip(
        encoded(OnnxEncoder.open(encoder.name), side), encoded(encoder, side), strict=True
    ):
        np.testing.assert_allclose(made, expected, atol=1e-4)


def test_passages_of_few_tokens_have_few(encoder: DualEncoder) -> None:
    short, *_, long = encoder.encode_passages(SAMPLES).tokens
    assert short.any(-1).tolist() == [True] * 3 + [False] * 2  # [CLS] a [SEP]
    assert long.any(-1).all()


def test_a_new_head_is_maxsim() -> None:
    config = DiPairConfig(**ALIGNED, dim=16)
    head = AlignedHead(config)
    with torch.no_grad():
        head.initialise()
        query, passage = tokens(5, 2, 9, 9), tokens(6, 2, 5, 5)
        expected = 20 * (query @ passage.mT).amax(-1).mean(-1) - 10
        torch.testing.assert_close(head(query, passage), expected)


def test_a_query_token_meets_the_most_similar_passage_token() -> None:
    query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    passage = torch.tensor([[[0.5, 0.1], [0.2, 0.9], [0.0, 0.0]]])
    met, similarities = align(query, passage)
    assert met.tolist() == [[[0.5, pytest.approx(0.1)], [pytest.approx(0.2), pytest.approx(0.9)]]]
    np.testing.assert_allclose(similarities[0], [[0.5, 0.2, 0.35], [0.9, 0.1, 0.5]], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": None}, "clusters of tokens need a projection"),
        ({"max_passage_tokens": 1}, "2 tokens of a passage or more"),
        ({"system": "poly", "keep": "clusters"}, "clusters have no order: choose tsf"),
        ({"head_attention_heads": 3}, "dim 16 cannot be shared among 3"),
        ({"pooling": "max"}, "pooling one of cls, mean, linear"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        DiPairConfig(**{"dim": 16, **ALIGNED, **settings})
