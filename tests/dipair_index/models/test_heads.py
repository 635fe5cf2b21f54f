"""Each head against a slow twin written in numpy loops, and what all of them promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.models.config import DiPairConfig
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.heads import make_head, served_logits
from dipair_index.models.systems import CLASS_SYSTEMS, SYSTEMS, TUPLE_SYSTEMS
from dipair_index.models.transformer_head import TupleHead

Array = np.ndarray[Any, Any]
Weights = dict[str, Array]
KEPT = {"query": 4, "passage": 8, "brand": 2, "title": 3}


def layer_norm(row: Array, weight: Array, bias: Array) -> Array:
    centred = row - row.mean()
    return centred / math.sqrt((centred**2).mean() + 1e-12) * weight + bias


def gelu(value: float) -> float:
    return 0.5 * value * (1 + math.erf(value / math.sqrt(2)))


def unit(row: Array) -> Array:
    return row / (np.linalg.norm(row) or 1.0)  # a token that is not there has no direction


def slow_transformer(weights: Weights, sides: list[Array]) -> Array:
    """Section 3.5 of DiPair, one token and one number at a time."""
    tokens = [(token, segment) for segment, side in enumerate(sides) for token in side]
    hidden = [
        layer_norm(
            token + weights["position"][place] + weights["segment"][segment],
            weights["norm.weight"],
            weights["norm.bias"],
        )
        for place, (token, segment) in enumerate(tokens)
    ]
    return slow_output(weights, slow_attention_layers(weights, hidden)[0], sides)


def slow_joint(weights: Weights, sides: list[Array]) -> Array:
    """The layers of PreTTR that read both texts, over the tokens that are there."""
    there = [[token for token in side if token.any()] for side in sides]
    hidden = [
        weights[f"expansions.{segment}.weight"] @ token + weights["segment"][segment]
        for segment, side in enumerate(there)
        for token in side
    ]
    first = slow_attention_layers(weights, hidden)[0]
    return slow_output(weights, first, [np.array(side) for side in there])


def slow_attention_layers(weights: Weights, hidden: list[Array]) -> list[Array]:
    """Layers of BERT with one attention head."""
    number = 0
    while f"layers.{number}.norm1.bias" in weights:
        own = {
            name.removeprefix(f"layers.{number}."): value
            for name, value in weights.items()
            if name.startswith(f"layers.{number}.")
        }
        stacked = own["self_attn.in_proj_weight"], own["self_attn.in_proj_bias"]
        (to_q, to_k, to_v), (bias_q, bias_k, bias_v) = (np.split(part, 3) for part in stacked)
        attended = []
        for token in hidden:
            asked = to_q @ token + bias_q
            likeness = [
                float(asked @ (to_k @ other + bias_k)) / math.sqrt(len(token)) for other in hidden
            ]
            shares = [math.exp(value - max(likeness)) for value in likeness]
            mixed = sum(
                share / sum(shares) * (to_v @ other + bias_v)
                for share, other in zip(shares, hidden, strict=True)
            )
            out = own["self_attn.out_proj.weight"] @ mixed + own["self_attn.out_proj.bias"]
            attended.append(layer_norm(token + out, own["norm1.weight"], own["norm1.bias"]))
        hidden = []
        for token in attended:
            inner = own["linear1.weight"] @ token + own["linear1.bias"]
            inner = np.array([gelu(value) for value in inner])
            out = own["linear2.weight"] @ inner + own["linear2.bias"]
            hidden.append(layer_norm(token + out, own["norm2.weight"], own["norm2.bias"]))
        number += 1
    return hidden


def slow_dense(weights: Weights, sides: list[Array]) -> Array:
    return slow_layers(
        weights, np.array([number for side in sides for number in side.ravel()]), sides
    )


def slow_sentences(weights: Weights, sides: list[Array]) -> Array:
    u, v = sides[0][0], sides[1][0]
    features = [*u, *v, *(a * b for a, b in zip(u, v, strict=True))]
    features += [abs(a - b) for a, b in zip(u, v, strict=True)]
    return slow_layers(weights, np.array(features), sides)


def slow_layers(weights: Weights, hidden: Array, sides: list[Array]) -> Array:
    number = 0
    while f"layers.{number}.weight" in weights:
        hidden = weights[f"layers.{number}.weight"] @ hidden + weights[f"layers.{number}.bias"]
        hidden = np.array([max(value, 0.0) for value in hidden])
        number += 1
    return slow_output(weights, hidden, sides)


def slow_output(weights: Weights, read: Array, sides: list[Array]) -> Array:
    logits = weights["output.weight"] @ read + weights["output.bias"]
    if "similarity_scale" in weights:
        read = len(sides[0]) if weights["reads_all"] else 1
        similarity = 0.0
        for other in sides[1:]:
            compared = other if weights["reads_all"] else other[:1]
            for token in sides[0][:read]:
                best = max(float(unit(token) @ unit(each)) for each in compared)
                similarity += best / read / len(sides[1:])
        grades = range(len(logits)) if len(logits) > 1 else [1]
        logits = logits + [float(weights["similarity_scale"][0]) * similarity * k for k in grades]
    return logits


def slow_cosine(weights: Weights, sides: list[Array]) -> Array:
    return scaled(weights, float(unit(sides[0][0]) @ unit(sides[1][0])))


def slow_poly(weights: Weights, sides: list[Array]) -> Array:
    query, codes = unit(sides[0][0]), [unit(token) for token in sides[1] if token.any()]
    shares = [math.exp(float(weights["attention_scale"]) * float(query @ code)) for code in codes]
    mixed = sum(share / sum(shares) * code for share, code in zip(shares, codes, strict=True))
    return scaled(weights, float(query @ mixed))


def slow_maxsim(weights: Weights, sides: list[Array]) -> Array:
    query, passage = ([unit(token) for token in side if token.any()] for side in sides)
    best = [max(float(token @ other) for other in passage) for token in query]
    return scaled(weights, sum(best) / len(best))


def slow_aligned(weights: Weights, sides: list[Array]) -> Array:
    """Each query token beside the passage token it meets, over the tokens that are there."""
    query, passage = ([token for token in side if token.any()] for side in sides)
    unit_scale = math.sqrt(len(query[0]))
    best, hidden = [], []
    for place, token in enumerate(query):
        products = sorted(((float(token @ other), row) for row, other in enumerate(passage)))[::-1]
        met = passage[products[0][1]]
        second = max(products[1][0], -1.0) if len(products) > 1 else -1.0
        mean = sum(product for product, _ in products) / len(products)
        best.append(max(products[0][0], -1.0))
        row = (
            weights["product.weight"] @ (unit_scale**2 * token * met)
            + weights["product.bias"]
            + weights["query.weight"] @ (unit_scale * token)
            + weights["passage.weight"] @ (unit_scale * met)
            + weights["similarities.weight"] @ (unit_scale * np.array([best[-1], second, mean]))
            + weights["position"][place]
        )
        hidden.append(layer_norm(row, weights["norm.weight"], weights["norm.bias"]))
    logit = 0.0
    for token, similar, read in zip(
        query, best, slow_attention_layers(weights, hidden), strict=True
    ):
        added, weight = weights["output.weight"] @ read + weights["output.bias"]
        common = float(token @ weights["centre"])
        logit += float(weights["similarity_scale"][0]) * (similar + common)
        logit += float(added) + unit_scale * float(weight) * similar
    return np.array([logit / len(query) + float(weights["bias"][0])])


def scaled(weights: Weights, similarity: float) -> Array:
    return np.array([float(weights["similarity_scale"]) * similarity + float(weights["bias"])])


TWINS: dict[str, Callable[[Weights, list[Array]], Array]] = {
    "tsf": slow_transformer,
    "ffnn": slow_dense,
    "de-ffnn": slow_dense,
    "de-cos": slow_cosine,
    "dse": slow_sentences,
    "poly": slow_poly,
    "maxsim": slow_maxsim,
    "prettr": slow_joint,
    "aligned": slow_aligned,
}
SMALL_BERT = {
    "model_type": "bert", "hidden_size": 10, "num_hidden_layers": 1, "num_attention_heads": 1,
    "intermediate_size": 12, "vocab_size": 8,
}  # fmt: skip
CASES = [
    *((system, {}) for system in SYSTEMS),
    *((system, {"similarity_residual": "cosine"}) for system in CLASS_SYSTEMS),
    *((system, {"similarity_residual": "maxsim", "classes": 3}) for system in CLASS_SYSTEMS),
    *((system, {"similarity_residual": "cosine", "three": True}) for system in TUPLE_SYSTEMS),
    ("tsf", {"similarity_residual": "maxsim"}),
    ("ffnn", {"similarity_residual": "maxsim", "three": True}),
    ("tsf", {"head_layers": 1, "classes": 2}),
    ("ffnn", {"head_hidden": [7]}),
    ("dse", {"head_hidden": [7, 5, 6]}),
]


def random_head(system: str, **sizes: Any) -> tuple[DiPairConfig, TupleHead]:
    """A head in which no weight is zero or one."""
    extra = {"title": [3, 9], "brand": [2, 9]} if sizes.pop("three", False) else {}
    sizes = {"dim": 8, "head_intermediate": 12, "head_hidden": [6, 5]} | sizes
    if system == "prettr":  # whose layers have the encoder's sizes, and which keeps all tokens
        sizes |= {"encoder": SMALL_BERT, "query_length": 4, "passage_length": 8}
    config = DiPairConfig(system=system, extra_sides=extra, **sizes)
    torch.manual_seed(0)
    head = make_head(config).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return config, head


def random_tokens(config: DiPairConfig, pairs: int) -> list[Tensor]:
    """Tokens of each side, the last of which some texts do not have."""
    tokens = []
    for side in config.sides:
        kept = config.kept(side)
        there = torch.arange(kept) < torch.randint(1, kept + 1, (pairs, 1))
        tokens.append(torch.randn(pairs, kept, config.token_dim) * there.unsqueeze(-1))
    return tokens


@pytest.mark.parametrize(("system", "sizes"), CASES)
def test_a_head_gives_what_its_slow_twin_gives(system: str, sizes: dict[str, Any]) -> None:
    config, head = random_head(system, **sizes)
    tokens = random_tokens(config, 5)
    weights = {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}
    weights["reads_all"] = np.array(config.similarity_residual == "maxsim")
    with torch.inference_mode():
        logits = head(*tokens)
    slow = np.stack(
        [
            TWINS[system](weights, [side[row].double().numpy() for side in tokens])
            for row in range(5)
        ]
    )
    assert logits.shape == ((5,) if config.classes == 1 else (5, config.classes))
    np.testing.assert_allclose(logits.reshape(5, -1), slow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_pairs_score_depends_on_no_other_row(system: str) -> None:
    config, head = random_head(system)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(1, 9), st.integers(0, 2**32 - 1))
    def check(pairs: int, seed: int) -> None:
        torch.manual_seed(seed)
        tokens = random_tokens(config, pairs)
        order = torch.randperm(pairs)
        with torch.inference_mode():
            logits = head(*tokens)
            alone = torch.cat([head(*(side[row : row + 1] for side in tokens)) for row in order])
        torch.testing.assert_close(alone, logits[order], atol=1e-5, rtol=1e-5)

    check()


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_text_is_scored_alike_whatever_it_was_padded_with(
    system: str, tiny_encoder_dir: Path, tiny_tokenizer: Any
) -> None:
    torch.manual_seed(0)
    model = DiPairModel.from_encoder(
        str(tiny_encoder_dir),
        dim=16,
        system=system,
        head_layers=1,
        head_intermediate=8,
        head_hidden=[8],
    ).eval()
    texts = ["tea", "the queen of the honey bees", "", "lava ash erupts in the mountain " * 9]
    alone, together = (
        DualEncoder(model, tiny_tokenizer, name="tiny", batch_size=size) for size in (1, 4)
    )
    with torch.inference_mode():
        logits = [
            model.head(
                torch.tensor(encoder.encode_queries(texts).tokens),
                torch.tensor(encoder.encode_passages(texts[::-1]).tokens),
            )
            for encoder in (alone, together)
        ]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("system", ["poly", "maxsim"])
def test_more_room_for_tokens_that_are_not_there_changes_no_similarity(system: str) -> None:
    _, head = random_head(system)
    query, passage = torch.randn(3, 1, 8), torch.randn(3, 5, 8)
    with torch.inference_mode():
        logits = head(query, passage)
        padded = head(
            torch.nn.functional.pad(query, (0, 0, 0, 2)),
            torch.nn.functional.pad(passage, (0, 0, 0, 4)),
        )
        nothing = head(query, torch.zeros_like(passage))
    torch.testing.assert_close(logits, padded)
    torch.testing.assert_close(nothing, head.get_parameter("bias").detach().expand(3))


@pytest.mark.parametrize("system", [*CLASS_SYSTEMS, "de-cos"])
def test_a_similarity_starts_at_the_cosine_of_the_first_tokens(
    system: str, tiny_encoder_dir: Path
) -> None:
    model = DiPairModel.from_encoder(
        str(tiny_encoder_dir),
        system=system,
        dim=16,
        head_layers=1,
        head_intermediate=32,
        similarity_residual="cosine",
    ).eval()
    query, passage = random_tokens(model.config, 5)
    with torch.inference_mode():
        logits = model.head(query, passage)
    cosines = torch.cosine_similarity(query[:, 0], passage[:, 0])
    torch.testing.assert_close(logits, 20 * cosines - 10)


def test_a_model_of_grades_starts_in_the_order_of_the_cosines(tiny_encoder_dir: Path) -> None:
    model = DiPairModel.from_encoder(
        str(tiny_encoder_dir), system="ffnn", dim=16, similarity_residual="cosine", classes=4
    ).eval()
    query, passage = random_tokens(model.config, 20)
    with torch.inference_mode():
        logits = model.head(query, passage)
    cosines = torch.cosine_similarity(query[:, 0], passage[:, 0])
    torch.testing.assert_close(logits, (20 * cosines - 10).unsqueeze(1) * torch.arange(4))
    assert served_logits(logits).argsort().tolist() == cosines.argsort().tolist()


def test_what_is_served_of_several_classes_is_the_expected_grade() -> None:
    logits = torch.randn(50, 5) * 4
    expected = (logits.softmax(-1) * torch.arange(5)).sum(-1) / 4
    torch.testing.assert_close(served_logits(logits).sigmoid(), expected)
    two = torch.tensor([[-200.0, 300.0], [1.0, 0.5]])
    torch.testing.assert_close(served_logits(two), torch.tensor([500.0, -0.5]))


@pytest.mark.parametrize(
    ("system", "changes"),
    [
        *((system, {}) for system in SYSTEMS),
        ("tsf", {"shared_encoder": False, "shared_projections": True}),
        ("maxsim", {"dim": None}),
        ("dse", {"similarity_residual": "maxsim", "classes": 3, "shared_encoder": False}),
        ("ffnn", {"extra_sides": {"title": [3, 9], "brand": [2, 9]}, "shared_projections": True}),
        ("tsf", {"extra_sides": {"title": [3, 9]}, "shared_encoder": False, "dim": None}),
    ],
)
def test_a_saved_model_scores_as_it_did(
    system: str,
    changes: dict[str, Any],
    tiny_encoder_dir: Path,
    tiny_tokenizer: Any,
    tmp_path: Path,
) -> None:
    sizes = {"dim": 16, "head_layers": 1, "head_intermediate": 8, "head_hidden": [9, 7]} | changes
    model = DiPairModel.from_encoder(str(tiny_encoder_dir), system=system, **sizes)
    with torch.no_grad():
        for parameter in [*model.head.parameters(), *model.other_encoders.parameters()]:
            parameter.add_(torch.randn_like(parameter))
    first = DualEncoder(model, tiny_tokenizer, name="tiny")
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)

    second = DualEncoder.load(tmp_path)

    assert second.fingerprint == first.fingerprint
    assert second.model.config.sides == model.config.sides
    texts = ["bees dance", "green tea leaves", ""]
    logits = []
    for encoder in (first, second):
        tokens = [torch.tensor(encoder.encode(side, texts).tokens) for side in model.config.sides]
        with torch.inference_mode():
            logits.append(encoder.model.head(*tokens))
    torch.testing.assert_close(logits[0], logits[1])
