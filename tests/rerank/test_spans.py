"""Matched spans, against what is found by leaving out words one at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipair_index.encoders.base import EncodedTexts
from dipair_index.encoders.batches import Tokenised
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.models.systems import Sizes
from dipair_index.records import FloatArray, Passage
from dipair_index.rerank.encoder_scorer import EncoderScorer
from dipair_index.rerank.open_scorer import open_token_scorer
from dipair_index.rerank.spans import MOST_QUERY_WORDS, Span, matched_spans

DIM = 16
READ = 40
"""The words that the encoder reads of a text."""
LIKE = {"stinging": "sting", "dies": "die"}
"""Words with nearly the vector of another one."""


@cache
def vector_of(word: str) -> tuple[float, ...]:
    stem = LIKE.get(word, word)
    vector = np.random.default_rng(crc32(stem.encode())).standard_normal(DIM)
    if word != stem:
        vector += 0.1
    return tuple(vector / np.linalg.norm(vector))


class PooledEncoder:
    """Keeps one token of a text: the sum of its words' vectors. The head is a product of tokens."""

    name = fingerprint = "pooled"
    backend = "numpy"
    device = "cpu"
    sides = ("query", "passage")
    sizes = Sizes(1, 1, DIM, DIM)

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def tokenised(self, side: str, texts: Sequence[str]) -> Tokenised:
        words = [re.findall(r"\w+", text) for text in texts]
        ids = [[crc32(word.encode()) for word in of_text[:READ]] for of_text in words]
        return Tokenised(side, ids, sum(len(of_text) > READ for of_text in words))

    def encode_tokenised(self, texts: Tokenised) -> EncodedTexts:
        raise NotImplementedError

    def encode_queries(self, texts: Sequence[str]) -> EncodedTexts:
        words = [re.findall(r"\w+", text)[:READ] for text in texts]
        sums = np.array(
            [np.sum([vector_of(word) for word in each] or [np.zeros(DIM)], 0) for each in words],
            np.float32,
        )
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        return EncodedTexts(sums[:, None], sums / np.maximum(lengths, 1e-12))

    def encode_passages(self, texts: Sequence[str]) -> EncodedTexts:
        self.encoded += texts
        return self.encode_queries(texts)

    def logits(self, query_tokens: FloatArray, passage_tokens: FloatArray) -> FloatArray:
        scored: FloatArray = np.einsum("nd,pmd->p", query_tokens, passage_tokens)
        return scored


def spans_of(query: str, *passages: Passage) -> list[list[Span]]:
    encoder = PooledEncoder()
    return matched_spans(query, passages, encoder, EncoderScorer(encoder))


def texts_of(passage: Passage, spans: list[Span]) -> list[str]:
    return [passage.text[span.start : span.end] for span in spans]


def logit(query: str, text: str) -> float:
    sums = [
        np.sum([np.zeros(DIM), *map(vector_of, re.findall(r"\w+", each))], 0)
        for each in (query, text)
    ]
    return float(sums[0] @ sums[1])


def test_each_word_of_the_query_has_its_nearest_word_of_the_passage() -> None:
    """The words are those with nearly equal vectors, the weights by hand: one product each."""
    query = "stinging bee dies"
    passage = Passage("p", "When a «bee» has used its sting, it will die: the sting stays.")
    (spans,) = spans_of(query, passage)
    assert texts_of(passage, spans) == ["bee", "sting", "die"]
    for span, word in zip(spans, ["bee", "sting", "die"], strict=True):
        assert span.weight == pytest.approx(logit(query, word), abs=1e-4)


def test_neighbouring_matches_are_one_span_which_is_left_out_as_a_whole() -> None:
    query = "queen honey bee"
    passage = Passage("p", "Ash. The honey of the bee; ice, lava and tea... and a queen!")
    (spans,) = spans_of(query, passage)
    assert texts_of(passage, spans) == ["honey", "bee", "queen"]
    passage = Passage("p", "Ash. The honey bee; ice, lava and tea... and a queen!")
    (spans,) = spans_of(query, passage)
    assert texts_of(passage, spans) == ["honey bee", "queen"]
    assert spans[0].weight == pytest.approx(logit(query, "honey bee"), abs=1e-4)


def test_a_title_stays_and_a_word_of_no_weight_is_no_match() -> None:
    unlike = next(word for word in ("moon", "lava", "ice", "tea") if logit("bee", word) < 0)
    passages = [Passage("p", unlike, "bee"), Passage("q", "a bee", "bee"), Passage("e", "")]
    none, bee, empty = spans_of("bee", *passages)
    assert none == empty == []
    assert texts_of(passages[1], bee) == ["bee"]
    assert bee[0].weight == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("query", ["?!", "the"])
def test_nothing_matches_a_query_without_words_or_a_passage_without_any(query: str) -> None:
    assert spans_of(query, Passage("p", " .. — "), Passage("q", "")) == [[], []]
    assert spans_of("?!", Passage("p", "a bee")) == [[]]
    assert spans_of(query) == []


@pytest.mark.parametrize("before", [0, 5, READ - 2, READ - 1, 3 * READ])
def test_only_what_the_encoder_reads_is_looked_at(before: int) -> None:
    passage = Passage("p", "ice " * before + "bee " + "lava " * 200, "title")
    encoder = PooledEncoder()
    (spans,) = matched_spans("bee", [passage], encoder, EncoderScorer(encoder))
    read = before + 2 <= READ  # the title is a word too
    assert ("bee" in texts_of(passage, spans)) == read
    if read:
        assert passage.text[: spans[0].start].split() == ["ice"] * before


def test_offsets_are_code_points() -> None:
    passage = Passage("p", "🐝🐝 naïve e\u0301tude — (bee) 日本語 🐝")
    (spans,) = spans_of("bee", passage)
    assert texts_of(passage, spans) == ["bee"]
    assert spans[0].start == passage.text.index("bee")


def test_the_work_is_bounded() -> None:
    query = " ".join(f"word{number}" for number in range(3 * MOST_QUERY_WORDS))
    passage = Passage("p", ", ".join(f"word{number} of the river" for number in range(9)))
    encoder = PooledEncoder()
    matched_spans(query, [passage] * 3, encoder, EncoderScorer(encoder))
    words = len(set(re.findall(r"\w+", passage.text)))
    assert len(encoder.encoded) <= words + 3 * (MOST_QUERY_WORDS + 1)


@given(
    st.text(st.sampled_from("ab .,-\n🐝é日"), min_size=1, max_size=60),
    st.text(st.sampled_from("ab .🐝é日"), min_size=1, max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_spans_are_apart_in_order_and_weigh_what_their_absence_costs(text: str, query: str) -> None:
    passage = Passage("p", text)
    (spans,) = spans_of(query, passage)
    ends = [0, *(span.end for span in spans)]
    for before, span in zip(ends, spans, strict=False):
        assert before <= span.start < span.end <= len(text)
        rest = text[: span.start] + text[span.end :]
        assert span.weight == pytest.approx(logit(query, text) - logit(query, rest), abs=1e-4)
        assert span.weight > 0
        assert text[span.start].isalnum()
        assert text[span.end - 1].isalnum()


def test_a_model_of_pooled_tokens_weighs_spans_by_its_own_logits(exported: DualEncoder) -> None:
    scorer = open_token_scorer(exported)
    passages = [
        Passage("a", "the queen and the bees in winter", "Honey"),
        Passage("b", "lava erupts, and ash is black in the light of the moon and the sun"),
        Passage("c", "how does the river dance? The glacier is ice, and the ice is water."),
    ]
    weights = []
    for query in ("why does the queen dance", "the black moon", "ice and water"):
        tokens = exported.encode_queries([query]).tokens[0]
        found = matched_spans(query, passages, exported, scorer)
        for passage, spans in zip(passages, found, strict=True):
            for start, end, weight in spans:
                rest = passage._replace(text=passage.text[:start] + passage.text[end:])
                both = exported.encode_passages([passage.full_text, rest.full_text]).tokens
                whole, without = scorer.logits(tokens, both).tolist()
                assert weight == pytest.approx(whole - without, abs=1e-3)
                weights.append(weight)
    assert weights
