"""An encoder that is none of ours: what fulfils the contract of `TextEncoder` is served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from dipair_index.encoders.base import EncodedTexts, TextEncoder
from dipair_index.encoders.batches import Tokenised
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.encoders.onnx_encoder import OnnxEncoder
from dipair_index.errors import DirectoryError, ModelError, SettingsError
from dipair_index.models.systems import Sizes
from dipair_index.records import FloatArray, Passage
from dipair_index.rerank.build import build_index
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.open_scorer import open_token_scorer

N, M, DIM = 3, 5, 8


class WordEncoder:
    """A vector a word, drawn by the word; the head is the sum of the largest products."""

    name = "words"
    backend = "numpy"
    device = "cpu"
    sides = ("query", "passage")
    sizes = Sizes(N, M, DIM, DIM)

    def __init__(self, fingerprint: str = "words of 8 numbers") -> None:
        self.fingerprint = fingerprint

    def tokenised(self, side: str, texts: Sequence[str]) -> Tokenised:
        kept = N if side == "query" else M
        words = [text.split() for text in texts]
        ids = [[crc32(word.encode()) for word in of_text[:kept]] for of_text in words]
        return Tokenised(side, ids, sum(len(of_text) > kept for of_text in words))

    def encode_tokenised(self, texts: Tokenised) -> EncodedTexts:
        kept = N if texts.side == "query" else M
        tokens = np.zeros((len(texts.ids), kept, DIM), np.float32)
        for row, ids in enumerate(texts.ids):
            for place, seed in enumerate(ids):
                tokens[row, place] = np.random.default_rng(seed).standard_normal(DIM)
        sums = tokens.sum(1)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        return EncodedTexts(tokens, sums / np.maximum(lengths, 1e-12))

    def encode_queries(self, texts: Sequence[str]) -> EncodedTexts:
        return self.encode_tokenised(self.tokenised("query", texts))

    def encode_passages(self, texts: Sequence[str]) -> EncodedTexts:
        return self.encode_tokenised(self.tokenised("passage", texts))

    def logits(self, query_tokens: FloatArray, passage_tokens: FloatArray) -> FloatArray:
        products = np.einsum("nd,pmd->pnm", query_tokens, passage_tokens)
        scored: FloatArray = products.max(2).sum(1)
        return scored


def slow_logit(encoder: WordEncoder, query: str, passage: str) -> float:
    """The head of one pair, a word at a time in float64."""
    words = encoder.encode_queries([query]).tokens[0].astype(float)
    others = encoder.encode_passages([passage]).tokens[0].astype(float)
    return sum(max(float(word @ other) for other in others) for word in words)


def test_an_index_is_built_and_searched_by_an_encoder_of_ones_own(
    passages: list[Passage], tmp_path: Path
) -> None:
    encoder = WordEncoder()
    by_contract: TextEncoder = encoder
    summary = build_index(passages, tmp_path / "words.index", by_contract, codec="float32")
    assert summary.passages == len(passages)
    assert summary.truncated == sum(len(each.full_text.split()) > M for each in passages)
    query = "the piano is"
    with DiPairIndex.open(tmp_path / "words.index", encoder) as index:
        found = index.search(query, len(passages), len(passages), raw_scores=True)
        expected = {
            each.passage_id: slow_logit(encoder, query, each.full_text) for each in passages
        }
        assert {each.id: each.score for each in found} == pytest.approx(expected, abs=1e-4)
        best_first = sorted(expected.values(), reverse=True)
        assert [each.score for each in found] == pytest.approx(best_first, abs=1e-4)
        some = [passages[5].passage_id, passages[2].passage_id]
        again = index.rerank(query, some, raw_scores=True)
        assert {each.id: each.score for each in again} == pytest.approx(
            {name: expected[name] for name in some}, abs=1e-4
        )
    with pytest.raises(DirectoryError, match="was built by the model words"):
        DiPairIndex.open(tmp_path / "words.index", WordEncoder("other words"))


def test_a_precision_that_it_does_not_have_is_refused() -> None:
    with pytest.raises(SettingsError, match="the backend numpy has no head in bfloat16"):
        open_token_scorer(WordEncoder(), "bfloat16")


def test_logits_of_another_shape_are_refused_at_once() -> None:
    class Columns(WordEncoder):
        def logits(self, query_tokens: FloatArray, passage_tokens: FloatArray) -> FloatArray:
            return super().logits(query_tokens, passage_tokens)[:, None]

    with pytest.raises(ModelError, match=r"words gives logits of shape \(1, 1\)"):
        open_token_scorer(Columns())


def test_the_logits_of_both_encoders_are_those_that_they_are_served_with(
    exported: DualEncoder, passages: list[Passage]
) -> None:
    query = exported.encode_queries(["why does the moon dance"]).tokens[0]
    tokens = exported.encode_passages([each.full_text for each in passages]).tokens
    expected = open_token_scorer(exported).logits(query, tokens)
    assert expected.std() > 0.01
    for encoder in (exported, OnnxEncoder.open(exported.name)):
        np.testing.assert_allclose(encoder.logits(query, tokens), expected, rtol=0, atol=1e-4)
