"""ONNX Runtime against torch: the same tokens, vectors and logits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.encoders.onnx_encoder import OnnxEncoder
from dipair_index.rerank.head import HeadScorer
from dipair_index.rerank.onnx_export import export_onnx
from dipair_index.rerank.open_scorer import open_token_scorer

TEXTS = [
    "",
    "a",
    "bees",
    "the queen of the bees",
    "why does dough rise: yeast and heat",
    "how bees dance in the winter " * 40,
]


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "cls"},
        {"pooling": "mean", "half": True},
        {"pooling": "cls", "keep": "last"},
        {"pooling": "mean", "keep": "last"},
        {"pooling": "cls", "keep": "spans"},
        {"pooling": "mean", "keep": "spans"},
        {"dim": None},
        {"query_prefix": "bees of the ", "passage_prefix": "tea: "},
        {"shared_encoder": False, "shared_projections": True},
        {"head_attention_heads": 4, "head_layers": 3, "similarity_residual": "cosine"},
        {"head_layers": 1, "max_query_tokens": 1, "max_passage_tokens": 12},
    ],
    ids=str,
)
def test_tokens_vectors_and_logits_are_torchs(
    make_model: Callable[..., DualEncoder], settings: dict[str, object]
) -> None:
    expected = make_model(**settings)
    export_onnx(expected)
    made = OnnxEncoder.open(expected.name)

    assert (made.fingerprint, made.sizes) == (expected.fingerprint, expected.sizes)
    for encode in ("encode_queries", "encode_passages"):
        theirs = getattr(expected, encode)(TEXTS)
        for ours, other in zip(getattr(made, encode)(TEXTS), theirs, strict=True):
            np.testing.assert_allclose(ours, other, rtol=0, atol=1e-4)
        assert theirs.tokens.std() > 0.05
    for encoder in (made, expected):
        assert encoder.tokenised("passage", TEXTS).truncated == 1
    passages = theirs.tokens
    query = expected.encode_queries(TEXTS[3:4]).tokens[0]
    logits = HeadScorer(expected.model).logits(query, passages)
    np.testing.assert_allclose(open_token_scorer(made).logits(query, passages), logits, atol=1e-4)
    assert logits.std() > 0.01


def test_int8_weights_with_scales_give_what_they_give_in_torch(int8_model: Path) -> None:
    expected = DualEncoder.load(int8_model)
    export_onnx(expected)
    made = OnnxEncoder.open(int8_model)

    np.testing.assert_allclose(
        made.encode_passages(TEXTS).tokens, expected.encode_passages(TEXTS).tokens, atol=1e-4
    )
    # weights are stored once: what is added is small even beside a model as small as this
    graphs = sum(path.stat().st_size for path in int8_model.glob("*.onnx"))
    assert graphs < 80_000

    rounded = OnnxEncoder.open(int8_model, precision="int8")
    near, exact = rounded.encode_passages(TEXTS), made.encode_passages(TEXTS)
    for one, other in zip(near, exact, strict=True):
        lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
        cosines = (one * other).sum(-1)[lengths > 0] / lengths[lengths > 0]
        assert 0.995 < cosines.min() < 0.99999
    # what a text gives does not depend on the texts beside it
    for row, text in enumerate(TEXTS):
        np.testing.assert_array_equal(rounded.encode_passages([text]).tokens[0], near.tokens[row])
    np.testing.assert_array_equal(
        rounded.encode_queries(TEXTS).tokens, made.encode_queries(TEXTS).tokens
    )


def test_a_text_has_the_same_tokens_whatever_the_number_of_threads(
    exported: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, texts = OnnxEncoder.open(exported.name, batch_size=2), TEXTS * 5
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one = made.encode_passages(texts)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    three = made.encode_passages(texts)
    np.testing.assert_array_equal(one.tokens, three.tokens)
    assert made.encode_passages([]).tokens.shape == (0, 8, 16)
