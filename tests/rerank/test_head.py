import numpy as np
import pytest

from dipair_index.dual_encoder import DualEncoder
from dipair_index.records import FloatArray, Passage
from dipair_index.rerank.head import MICRO_BATCH, HeadScorer


@pytest.fixture
def query_tokens(encoder: DualEncoder) -> FloatArray:
    return encoder.encode_queries(["why does dough rise"]).tokens[0]


@pytest.fixture
def passage_tokens(encoder: DualEncoder, passages: list[Passage]) -> FloatArray:
    """More than two micro-batches, the last of them not full."""
    tokens = encoder.encode_passages([passage.full_text for passage in passages]).tokens
    return np.concatenate([tokens + shift for shift in (0.0, 0.1, 0.2)], dtype=np.float32)


def test_a_passage_alone_has_the_score_it_has_among_others_whatever_their_order(
    encoder: DualEncoder, query_tokens: FloatArray, passage_tokens: FloatArray
) -> None:
    scorer = HeadScorer(encoder.model)
    logits = scorer.logits(query_tokens, passage_tokens)
    order = np.random.default_rng(0).permutation(len(passage_tokens))

    assert len(passage_tokens) > 2 * MICRO_BATCH
    np.testing.assert_array_equal(scorer.logits(query_tokens, passage_tokens[order]), logits[order])
    for row in (0, MICRO_BATCH, len(logits) - 1):
        alone = scorer.logits(query_tokens, passage_tokens[row : row + 1])
        assert alone.tolist() == [logits[row]]


def test_scores_are_those_of_the_models_head(
    encoder: DualEncoder, query_tokens: FloatArray, passage_tokens: FloatArray
) -> None:
    import torch

    with torch.no_grad():
        queries = torch.tensor(query_tokens).expand(len(passage_tokens), -1, -1)
        expected = encoder.model.head(queries, torch.tensor(passage_tokens)).numpy()
    logits = HeadScorer(encoder.model).logits(query_tokens, passage_tokens)

    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert logits.std() > 0


def test_no_passages_have_no_scores(encoder: DualEncoder, query_tokens: FloatArray) -> None:
    nothing = np.empty((0, 8, 16), np.float32)
    assert HeadScorer(encoder.model).logits(query_tokens, nothing).shape == (0,)


def test_tokens_of_another_shape_are_refused(
    encoder: DualEncoder, query_tokens: FloatArray
) -> None:
    with pytest.raises(ValueError, match=r"\(4, 16\) for the query .* got \(4, 16\) and \(9, 16\)"):
        HeadScorer(encoder.model).logits(query_tokens, np.empty((2, 9, 16), np.float32))
