from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import SettingsError
from dipair_index.models.config import DiPairConfig
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.systems import RESIDUALS
from dipair_index.records import FloatArray, Passage
from dipair_index.rerank import fast_head
from dipair_index.rerank.head import HeadScorer
from dipair_index.rerank.scorer import MICRO_BATCH
from dipair_index.stores.codecs import open_codec

TINY_ENCODER = {
    "model_type": "bert",
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 4,
    "vocab_size": 8,
}


class Case(NamedTuple):
    """A model with random weights, and as many queries as passages."""

    model: DiPairModel
    queries: FloatArray  # (texts, N, dim)
    passages: FloatArray  # (texts, M, dim)

    def expected(self, queries: FloatArray) -> FloatArray:
        """The logits of the model's own head, a pair a row."""
        with torch.inference_mode():
            head = self.model.head.eval()
            logits: FloatArray = head(torch.tensor(queries), torch.tensor(self.passages)).numpy()
        return logits


def make_case(seed: int, texts: int, **sizes: int | bool) -> Case:
    """No weight is zero or one, and some tokens at the end of a text are missing."""
    torch.manual_seed(seed)
    model = DiPairModel(DiPairConfig(encoder=TINY_ENCODER, **sizes))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.head.parameters():
            spread = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.add_(torch.randn_like(parameter) * spread)
    rng = np.random.default_rng(seed)
    sides = []
    for tokens in (model.config.max_query_tokens, model.config.max_passage_tokens):
        side = rng.standard_normal((texts, tokens, model.config.dim), np.float32)
        kept = rng.integers(0, tokens, (texts, 1), endpoint=True)
        sides.append(side * (np.arange(tokens) < kept)[:, :, None])
    return Case(model, *sides)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    heads = draw(st.integers(1, 4))
    return make_case(
        draw(st.integers(0, 2**32 - 1)),
        draw(st.sampled_from([1, 2, MICRO_BATCH - 1, MICRO_BATCH, MICRO_BATCH + 1])),
        max_query_tokens=draw(st.integers(1, 9)),
        max_passage_tokens=draw(st.integers(1, 17)),
        dim=heads * draw(st.sampled_from([8, 9, 16, 32])),
        head_layers=draw(st.integers(1, 4)),
        head_attention_heads=heads,
        head_intermediate=draw(st.sampled_from([1, 7, 32, 64])),
        similarity_residual=draw(st.sampled_from(RESIDUALS)),
    )


@pytest.fixture(params=["fused", "plain"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to multiply, that of a torch without oneDNN too."""
    if request.param == "plain":
        monkeypatch.setattr(fast_head, "has_onednn", lambda dtype: False)
    return str(request.param)


@pytest.fixture
def case() -> Case:
    """More than two micro-batches, the last of them not full."""
    return make_case(
        0, 2 * MICRO_BATCH + 5, dim=32, head_intermediate=64, similarity_residual="maxsim"
    )


@pytest.fixture
def query_tokens(encoder: DualEncoder) -> FloatArray:
    return encoder.encode_queries(["why does dough rise"]).tokens[0]


@pytest.mark.usefixtures("products")
def test_scores_are_those_of_the_models_head_whatever_its_sizes() -> None:
    @settings(max_examples=100, deadline=None)
    @given(cases())
    def check(case: Case) -> None:
        scorer = HeadScorer(case.model)
        one = np.broadcast_to(case.queries[0], case.queries.shape)
        logits = scorer.logits(case.queries[0], case.passages)
        np.testing.assert_allclose(logits, case.expected(one), rtol=0, atol=1e-4)

    check()


@pytest.mark.parametrize("sizes", [(4, 8, 256), (4, 12, 128), (8, 16, 256)])
def test_scores_are_those_of_the_models_head_at_the_papers_sizes(
    sizes: tuple[int, int, int],
) -> None:
    n, m, dim = sizes
    case = make_case(1, 100, max_query_tokens=n, max_passage_tokens=m, dim=dim)
    one = np.broadcast_to(case.queries[0], case.queries.shape)
    expected = case.expected(one)

    logits = HeadScorer(case.model).logits(case.queries[0], case.passages)

    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.2


def test_scores_of_an_encoders_tokens_are_those_of_the_models_head(
    encoder: DualEncoder, query_tokens: FloatArray, passages: list[Passage]
) -> None:
    tokens = encoder.encode_passages([passage.full_text for passage in passages]).tokens
    with torch.no_grad():
        queries = torch.tensor(query_tokens).expand(len(tokens), -1, -1)
        expected = encoder.model.head(queries, torch.tensor(tokens)).numpy()

    logits = HeadScorer(encoder.model).logits(query_tokens, tokens)

    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert logits.std() > 0


@pytest.mark.usefixtures("products")
def test_a_passage_alone_has_the_score_it_has_among_others_whatever_their_order(case: Case) -> None:
    scorer, query = HeadScorer(case.model), case.queries[0]
    logits = scorer.logits(query, case.passages)
    order = np.random.default_rng(0).permutation(len(logits))

    # some processors' kernels round a micro-batch's last rows otherwise than its first ones
    close = {"rtol": 1e-5, "atol": 1e-5}
    again = scorer.logits(query, case.passages[order])
    np.testing.assert_allclose(again, logits[order], **close)
    for row in (0, MICRO_BATCH, len(logits) - 1):
        alone = scorer.logits(query, case.passages[row : row + 1])
        np.testing.assert_allclose(alone, logits[[row]], **close)


def test_many_queries_at_once_have_the_scores_each_has_alone(case: Case) -> None:
    scorer = HeadScorer(case.model)
    together = scorer.logits(case.queries[:3], case.passages)
    alone = [scorer.logits(query, case.passages) for query in case.queries[:3]]
    np.testing.assert_array_equal(together, alone)


def test_scores_do_not_depend_on_the_number_of_threads(case: Case) -> None:
    logits = [
        HeadScorer(case.model, threads=threads).logits(case.queries[0], case.passages)
        for threads in (1, 2, 5)
    ]
    np.testing.assert_array_equal(logits, [logits[0]] * 3)


def test_scoring_leaves_torchs_threads_as_they_are(case: Case) -> None:
    torch.set_num_threads(2)
    try:
        HeadScorer(case.model).logits(case.queries[0], case.passages)
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("codec_name", ["float32", "float16", "int8"])
def test_encoded_passages_have_the_scores_of_what_they_decode_to(
    case: Case, codec_name: str
) -> None:
    scorer = HeadScorer(case.model)
    codec = open_codec(codec_name, tokens_per_passage=8, dim=32)
    rows = codec.encode(case.passages)
    np.testing.assert_array_equal(
        scorer.encoded_logits(case.queries[0], rows, codec),
        scorer.logits(case.queries[0], codec.decode(rows)),
    )


def test_passages_may_be_read_only_and_lie_anywhere(case: Case) -> None:
    scorer = HeadScorer(case.model)
    expected = scorer.logits(case.queries[0], case.passages)
    passages = np.asfortranarray(case.passages)
    passages.setflags(write=False)
    np.testing.assert_array_equal(scorer.logits(case.queries[0], passages), expected)


@pytest.mark.usefixtures("products")
def test_half_precision_is_near_the_exact_scores(case: Case) -> None:
    exact = HeadScorer(case.model).logits(case.queries[0], case.passages)
    near = HeadScorer(case.model, precision="bfloat16").logits(case.queries[0], case.passages)
    assert near.dtype == np.float32
    assert 0 < np.abs(near - exact).max() < 0.1 < exact.std()


@pytest.mark.usefixtures("products")
def test_a_scorer_keeps_the_weights_it_was_made_with(case: Case) -> None:
    scorer = HeadScorer(case.model)
    logits = scorer.logits(case.queries[0], case.passages)
    with torch.no_grad():
        for parameter in case.model.head.parameters():
            parameter.add_(1)
    np.testing.assert_array_equal(scorer.logits(case.queries[0], case.passages), logits)


def test_no_passages_have_no_scores(case: Case) -> None:
    scorer = HeadScorer(case.model)
    assert scorer.logits(case.queries[0], case.passages[:0]).shape == (0,)
    assert scorer.logits(case.queries[:2], case.passages[:0]).shape == (2, 0)


def test_tokens_of_another_shape_are_refused(case: Case) -> None:
    scorer = HeadScorer(case.model)
    refusal = r"\(4, 32\) for the query .* got \(4, 32\) and \(9, 32\)"
    with pytest.raises(SettingsError, match=refusal):
        scorer.logits(case.queries[0], np.empty((2, 9, 32), np.float32))
    codec = open_codec("int8", tokens_per_passage=9, dim=32)
    rows = np.empty((2, codec.bytes_per_passage), np.uint8)
    with pytest.raises(SettingsError, match=refusal):
        scorer.encoded_logits(case.queries[0], rows, codec)
