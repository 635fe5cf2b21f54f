"""The model against a slow twin written in numpy loops, and what it promises of texts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dipair_index.dual_encoder import DualEncoder
from dipair_index.errors import ModelError, SettingsError
from dipair_index.model import DiPairConfig, DiPairModel, Head, save_split

Array = np.ndarray[Any, Any]


def layer_norm(row: Array, weight: Array, bias: Array) -> Array:
    centred = row - row.mean()
    return centred / math.sqrt((centred**2).mean() + 1e-12) * weight + bias


def gelu(value: float) -> float:
    return 0.5 * value * (1 + math.erf(value / math.sqrt(2)))


def slow_head(head: Head, query: Array, passage: Array) -> float:
    """Section 3.5 of DiPair, one token and one number at a time, for one attention head."""
    weights = {name: tensor.detach().double().numpy() for name, tensor in head.state_dict().items()}
    tokens = [*query, *passage]
    segments = [0] * len(query) + [1] * len(passage)
    hidden = [
        layer_norm(
            token + weights["position"][place] + weights["segment"][segment],
            weights["norm.weight"],
            weights["norm.bias"],
        )
        for place, (token, segment) in enumerate(zip(tokens, segments, strict=True))
    ]
    for number in range(len(head.layers)):
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
    logit = float(weights["output.weight"][0] @ hidden[0] + weights["output.bias"][0])
    if head.similarity_residual:
        first = query[0], passage[0]
        cosine = first[0] @ first[1] / np.linalg.norm(first[0]) / np.linalg.norm(first[1])
        logit += float(weights["similarity_scale"][0] * cosine)
    return logit


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_head_gives_what_its_slow_twin_gives(residual: bool, layers: int) -> None:
    torch.manual_seed(0)
    head = Head(
        DiPairConfig(dim=8, head_intermediate=12, head_layers=layers, similarity_residual=residual)
    ).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    query, passage = torch.randn(3, 4, 8), torch.randn(3, 8, 8)
    with torch.inference_mode():
        fast = head(query, passage).numpy()
    slow = [
        slow_head(head, one.double().numpy(), other.double().numpy())
        for one, other in zip(query, passage, strict=True)
    ]
    np.testing.assert_allclose(fast, slow, rtol=1e-5, atol=1e-5)


def test_a_similarity_residual_starts_at_the_cosine_of_the_first_tokens(
    tiny_encoder_dir: Path,
) -> None:
    model = DiPairModel.from_encoder(
        str(tiny_encoder_dir), dim=16, head_intermediate=32, similarity_residual=True
    ).eval()
    query, passage = torch.randn(5, 4, 16), torch.randn(5, 8, 16)
    with torch.inference_mode():
        logits = model.head(query, passage)
    cosines = torch.cosine_similarity(query[:, 0], passage[:, 0])
    torch.testing.assert_close(logits, 20 * cosines - 10)


def slow_states(model: DiPairModel, ids: list[int], kept: int) -> Array:
    """What is kept of one text alone: the outputs taken one after the other."""
    with torch.inference_mode():
        outputs = model.encoder(input_ids=torch.tensor([ids]))[0][0].numpy()
    width = outputs.shape[1]
    rows = list(outputs[:kept] if model.config.keep == "first" else outputs[-kept:])
    rows += [np.zeros(width, np.float32)] * (kept - len(rows))
    if model.config.pooling == "mean":
        rows[0] = outputs.mean(0)
    return np.stack(rows)


@pytest.mark.parametrize("keep", ["first", "last"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_text_is_encoded_as_it_would_be_alone(
    tiny_encoder_dir: Path, tiny_tokenizer: Any, keep: str, pooling: str
) -> None:
    model = DiPairModel.from_encoder(str(tiny_encoder_dir), dim=16, keep=keep, pooling=pooling)
    encoder = DualEncoder(model, tiny_tokenizer, name="tiny", batch_size=2)
    texts = ["bees dance", "", "the queen of the honey bees in winter", "lava", "tea " * 300]
    encoded = encoder.encode_passages(texts)
    for row, text in enumerate(texts):
        ids = tiny_tokenizer(text, truncation=True, max_length=128)["input_ids"]
        states = slow_states(model, ids, 8)
        with torch.inference_mode():
            expected = model.projections["passage"](torch.from_numpy(states)).numpy()
        np.testing.assert_allclose(encoded.tokens[row], expected, atol=1e-5)
        pooled = states[0] / np.linalg.norm(states[0])
        np.testing.assert_allclose(encoded.vectors[row], pooled, atol=1e-5)
    assert encoder.truncated == 1


def test_query_and_passage_keep_their_own_number_of_tokens(tiny_model_dir: Path) -> None:
    encoder = DualEncoder.load(tiny_model_dir)
    assert encoder.encode_queries(["bees", "tea"]).tokens.shape == (2, 4, 16)
    assert encoder.encode_passages([]).tokens.shape == (0, 8, 16)


def test_both_stages_of_training_score_alike(tiny_model_dir: Path, tiny_tokenizer: Any) -> None:
    model = DualEncoder.load(tiny_model_dir).model
    queries = tiny_tokenizer(["why bees dance", "lava"], padding=True, return_tensors="pt")
    texts = ["bees", "the honey bees dance in winter", "tea", "lava ash", "moon", "a b c d e f"]
    passages = tiny_tokenizer(texts, padding=True, return_tensors="pt")

    def inputs(batch: Any) -> dict[str, torch.Tensor]:
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    with torch.inference_mode():
        from_ids = model(queries=inputs(queries), passages=inputs(passages))
        from_states = model(
            query_states=model.states("query", **inputs(queries)),
            passage_states=model.states("passage", **inputs(passages)).unflatten(0, (2, 3)),
        )
    torch.testing.assert_close(from_ids.logits, from_states.logits, atol=1e-5, rtol=1e-5)
    assert from_ids.logits.shape == (2, 3)


def test_a_saved_model_is_the_same_model_up_to_half_precision(
    tiny_model_dir: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    first = DualEncoder.load(tiny_model_dir)
    save_split(first.model, tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    second = DualEncoder.load(tmp_path)
    texts = ["why do bees dance", "green tea leaves"]
    np.testing.assert_allclose(
        first.encode_passages(texts).tokens, second.encode_passages(texts).tokens, atol=2e-3
    )
    before, after = first.model.config.to_dict(), second.model.config.to_dict()
    assert after | {"_name_or_path": ""} == before | {"_name_or_path": ""}


def test_frozen_weights_have_a_file_that_training_the_rest_leaves_alone(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    model = DualEncoder.load(tiny_model_dir).model
    save_split(model, tmp_path / "before")
    with torch.no_grad():
        model.head.output.bias += 1
    save_split(model, tmp_path / "after")
    same = {
        name: (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
        for name in ("frozen.safetensors", "trained.safetensors")
    }
    assert same == {"frozen.safetensors": True, "trained.safetensors": False}


def test_a_fingerprint_changes_with_any_weight(tiny_model_dir: Path) -> None:
    first, second = DualEncoder.load(tiny_model_dir), DualEncoder.load(tiny_model_dir)
    assert first.fingerprint == second.fingerprint
    with torch.no_grad():
        second.model.head.position[0, 0] += 1e-3
    changed = DualEncoder(second.model, second.tokenizer, name="changed")
    assert changed.fingerprint != first.fingerprint


def test_the_first_layers_of_an_encoder_can_be_kept_alone(tiny_encoder_dir: Path) -> None:
    model = DiPairModel.from_encoder(str(tiny_encoder_dir), layers=1, dim=16)
    whole = DiPairModel.from_encoder(str(tiny_encoder_dir), dim=16)
    assert len(model.encoder.encoder.layer) == 1
    first = model.encoder.state_dict()["encoder.layer.0.output.dense.weight"]
    torch.testing.assert_close(
        first, whole.encoder.state_dict()["encoder.layer.0.output.dense.weight"]
    )


def test_a_folder_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"no DiPair model could be loaded from {tmp_path}"):
        DualEncoder.load(tmp_path)
    with pytest.raises(ModelError, match="no encoder could be loaded from"):
        DiPairModel.from_encoder(str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_query_tokens": 0}, "max_query_tokens must be 1 or more, got 0"),
        ({"dim": 10, "head_attention_heads": 3}, "dim 10 cannot be shared among 3"),
        ({"keep": "middle"}, "keep must be first or last"),
    ],
)
def test_sizes_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        DiPairConfig(**settings)
