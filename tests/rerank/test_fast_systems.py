"""The heads of all systems as they are served, against the model's own."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import SettingsError
from dipair_index.formats.collections import read_passages
from dipair_index.formats.msmarco import sample_folder
from dipair_index.models.config import DiPairConfig
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.heads import served_logits
from dipair_index.models.systems import CLASS_SYSTEMS, RESIDUALS, SYSTEMS
from dipair_index.records import FloatArray, Passage
from dipair_index.rerank.build import build_index
from dipair_index.rerank.head import HeadScorer
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.scorer import MICRO_BATCH, PairSide
from dipair_index.stores.codecs import open_codec

ENCODER = {
    "model_type": "bert", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 1,
    "intermediate_size": 4, "vocab_size": 8,
}  # fmt: skip


def random_model(seed: int, **sizes: Any) -> DiPairModel:
    """No weight of its head is zero or one."""
    torch.manual_seed(seed)
    model = DiPairModel(DiPairConfig(encoder=ENCODER, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.head.parameters():
            spread = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.add_(torch.randn_like(parameter) * spread)
    return model


def random_tokens(model: DiPairModel, seed: int, texts: int) -> tuple[FloatArray, FloatArray]:
    """Tokens of as many queries as passages; some at the end of a text, or all, are missing."""
    rng = np.random.default_rng(seed)
    queries, passages = (
        rng.standard_normal((texts, model.config.kept(side), model.config.token_dim), np.float32)
        * (np.arange(model.config.kept(side)) < rng.integers(0, 9, (texts, 1)))[:, :, None]
        for side in model.config.sides
    )
    return queries, passages


def expected(model: DiPairModel, queries: FloatArray, passages: FloatArray) -> FloatArray:
    """What the model's own head makes of each pair."""
    with torch.inference_mode():
        logits = model.head(torch.tensor(queries), torch.tensor(passages))
        served = logits if model.config.classes == 1 else served_logits(logits)
    numbers: FloatArray = served.numpy()
    return numbers


@st.composite
def models(draw: st.DrawFn, system: str) -> DiPairModel:
    has_classes = system in CLASS_SYSTEMS
    return random_model(
        draw(st.integers(0, 2**32 - 1)),
        system=system,
        max_query_tokens=draw(st.integers(1, 5)),
        max_passage_tokens=draw(st.integers(1 + (system == "aligned"), 9)),
        dim=draw(st.sampled_from([33, 8, 1] if system == "aligned" else [None, 1, 8, 33])),
        head_hidden=draw(st.lists(st.integers(1, 20), min_size=1, max_size=3)),
        head_layers=1,
        head_intermediate=8,
        similarity_residual=draw(st.sampled_from(RESIDUALS)),
        classes=draw(st.sampled_from([1, 2, 5])) if has_classes else 1,
    )


@pytest.mark.parametrize("system", SYSTEMS)
def test_scores_are_those_of_the_models_head_whatever_its_sizes(system: str) -> None:
    @settings(max_examples=20, deadline=None)
    @given(
        models(system),
        st.integers(0, 2**32 - 1),
        st.sampled_from([1, 2, MICRO_BATCH - 1, MICRO_BATCH, MICRO_BATCH + 1]),
    )
    def check(model: DiPairModel, seed: int, texts: int) -> None:
        queries, passages = random_tokens(model, seed, texts)
        scorer = HeadScorer(model)
        one = np.broadcast_to(queries[0], queries.shape)
        logits = scorer.logits(queries[0], passages)
        np.testing.assert_allclose(logits, expected(model, one, passages), rtol=1e-5, atol=1e-4)
        alone = [scorer.logits(queries[0], passages[-1:]), scorer.logits(queries[-1], passages[:1])]
        many = scorer.logits(queries, passages)
        np.testing.assert_allclose(
            np.concatenate(alone), [logits[-1], many[-1, 0]], rtol=1e-5, atol=1e-5
        )

    check()


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("texts", [3, 60])
def test_pairs_whose_texts_repeat_have_the_scores_of_the_models_head(
    texts: int, system: str
) -> None:
    model = random_model(0, system=system, dim=8, head_intermediate=8, head_hidden=[8])
    sides = random_tokens(model, 0, texts)
    at = np.random.default_rng(0).integers(0, texts, (2, 2 * MICRO_BATCH + 9))
    encoded = []
    for tokens, rows in zip(sides, at, strict=True):
        _, kept, dim = tokens.shape
        codec = open_codec("float32", tokens_per_passage=kept, dim=dim)
        encoded.append(PairSide(codec.encode(tokens), codec, rows))
    logits = HeadScorer(model).pair_logits(*encoded)
    exact = expected(model, sides[0][at[0]], sides[1][at[1]])
    np.testing.assert_allclose(logits, exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("system", SYSTEMS)
def test_half_precision_is_near_the_exact_scores(system: str) -> None:
    model = random_model(0, system=system, dim=32, head_intermediate=64, head_hidden=[32, 32])
    queries, passages = random_tokens(model, 0, 60)
    exact = HeadScorer(model).logits(queries[1], passages)
    near = HeadScorer(model, precision="bfloat16").logits(queries[1], passages)
    assert np.abs(near - exact).max() < 0.15 * exact.std()


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_scorer_keeps_the_weights_it_was_made_with(system: str) -> None:
    model = random_model(0, system=system, dim=8, head_intermediate=8, head_hidden=[8])
    queries, passages = random_tokens(model, 0, 3)
    scorer = HeadScorer(model)
    logits = scorer.logits(queries[0], passages)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.add_(1)
    np.testing.assert_array_equal(scorer.logits(queries[0], passages), logits)


@pytest.fixture(scope="module")
def sample() -> list[Passage]:
    return list(islice(read_passages(sample_folder() / "collection.tsv"), 40))


@pytest.mark.parametrize(
    ("system", "changes"),
    [
        *((system, {}) for system in SYSTEMS),
        ("ffnn", {"classes": 3, "shared_encoder": False, "shared_projections": True}),
        ("maxsim", {"dim": None}),
    ],
)
def test_a_model_of_any_system_builds_an_index_and_answers_from_it(
    system: str,
    changes: dict[str, Any],
    sample: list[Passage],
    tiny_encoder_dir: Path,
    tiny_tokenizer: Any,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    sizes = {"dim": 16, "head_layers": 1, "head_intermediate": 8, "head_hidden": [8]} | changes
    model = DiPairModel.from_encoder(str(tiny_encoder_dir), system=system, **sizes)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    encoder = DualEncoder.load(tmp_path / "model")
    build_index(sample, tmp_path / "index", encoder, codec="float32")

    with DiPairIndex.open(tmp_path / "index") as index:
        best = index.search("why do honey bees dance", top_k=5, candidates=40, raw_scores=True)
        shares = index.rerank("why do honey bees dance", [passage.id for passage in best], top_k=5)

    query = encoder.encode_queries(["why do honey bees dance"]).tokens
    passages = encoder.encode_passages([passage.full_text for passage in sample]).tokens
    scores = expected(model.eval(), np.broadcast_to(query, (40, *query.shape[1:])), passages)
    ranking = sorted(zip(-scores, [passage.passage_id for passage in sample], strict=True))[:5]
    assert [passage.id for passage in best] == [passage_id for _, passage_id in ranking]
    np.testing.assert_allclose(
        [passage.score for passage in best], [-score for score, _ in ranking], atol=1e-4
    )
    np.testing.assert_allclose(
        [passage.score for passage in shares],
        [1 / (1 + np.exp(score)) for score, _ in ranking],
        atol=1e-4,
    )


def test_a_model_of_tuples_is_refused_before_anything_is_encoded(
    tiny_encoder_dir: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = DiPairModel.from_encoder(
        str(tiny_encoder_dir), dim=16, head_intermediate=8, extra_sides={"title": [2, 8]}
    )
    encoder = DualEncoder(model, tiny_tokenizer, name="tuples")

    def unread() -> Any:
        raise AssertionError("a passage was read")
        yield

    with pytest.raises(SettingsError, match="ranks passages for a query, but .* reads title: "):
        build_index(unread(), tmp_path / "index", encoder)
    assert not (tmp_path / "index").exists()
    with pytest.raises(SettingsError, match="the model also reads title"):
        HeadScorer(model)
