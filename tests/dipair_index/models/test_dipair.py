"""The model against a slow twin written in numpy loops, and what it promises of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import ModelError, SettingsError
from dipair_index.models.config import DiPairConfig
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.weights import save_weights

Array = np.ndarray[Any, Any]


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
    assert encoder.tokenised("passage", texts).truncated == 1


def test_a_prefix_is_read_before_every_text_of_its_side(
    tiny_encoder_dir: Path, tiny_tokenizer: Any
) -> None:
    torch.manual_seed(0)
    plain = DiPairModel.from_encoder(str(tiny_encoder_dir), dim=16)
    prefixes = {"query_prefix": "the queen of ", "passage_prefix": "honey "}
    model = DiPairModel(DiPairConfig(**{**plain.config.to_dict(), **prefixes}))
    model.load_state_dict(plain.state_dict())
    first, second = (DualEncoder(each, tiny_tokenizer, name="") for each in (plain, model))
    for made, expected in [
        (
            second.encode_queries(["bees", ""]),
            first.encode_queries(["the queen of bees", "the queen of "]),
        ),
        (second.encode_passages(["bees"]), first.encode_passages(["honey bees"])),
    ]:
        np.testing.assert_array_equal(made.tokens, expected.tokens)
        np.testing.assert_array_equal(made.vectors, expected.vectors)
    assert first.fingerprint != second.fingerprint


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
        from_ids = model(texts={"query": inputs(queries), "passage": inputs(passages)})
        from_states = model(
            states={
                "query": model.states("query", **inputs(queries)),
                "passage": model.states("passage", **inputs(passages)).unflatten(0, (2, 3)),
            }
        )
    torch.testing.assert_close(from_ids.logits, from_states.logits, atol=1e-5, rtol=1e-5)
    assert from_ids.logits.shape == (2, 3)


def test_a_saved_model_is_the_same_model_up_to_half_precision(
    tiny_model_dir: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    first = DualEncoder.load(tiny_model_dir)
    save_weights(first.model, tmp_path)
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
    save_weights(model, tmp_path / "before")
    with torch.no_grad():
        model.head.output.bias += 1
    save_weights(model, tmp_path / "after")
    same = {
        name: (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
        for name in ("frozen.safetensors", "trained.safetensors")
    }
    assert same == {"frozen.safetensors": True, "trained.safetensors": False}


def test_systems_of_the_same_weights_have_fingerprints_of_their_own(
    tiny_encoder_dir: Path, tiny_tokenizer: Any
) -> None:
    sizes = {"dim": 16, "max_query_tokens": 1, "max_passage_tokens": 1}
    models = [
        DiPairModel.from_encoder(str(tiny_encoder_dir), system=system, **sizes)
        for system in ("de-cos", "maxsim")
    ]
    models[1].load_state_dict(models[0].state_dict())
    prints = {DualEncoder(model, tiny_tokenizer, name="").fingerprint for model in models}
    assert len(prints) == 2


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
    (tmp_path / "config.json").write_text('{"model_type": "dipair", "system": "bm25"}')
    with pytest.raises(ModelError, match=r"has an invalid config\.json: there is no system bm25"):
        DualEncoder.load(tmp_path)
    with pytest.raises(ModelError, match="no encoder could be loaded from"):
        DiPairModel.from_encoder(str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_query_tokens": 0}, "max_query_tokens must be 1 or more, got 0"),
        ({"dim": 10, "head_attention_heads": 3}, "dim 10 cannot be shared among 3"),
        ({"keep": "middle"}, "keep must be one of first, last, spans"),
    ],
)
def test_sizes_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        DiPairConfig(**settings)


def test_an_encoder_that_cannot_read_so_much_is_refused_at_once(tiny_encoder_dir: Path) -> None:
    with pytest.raises(SettingsError, match="reads 160 tokens at most, not 161 of a text"):
        DiPairModel.from_encoder(str(tiny_encoder_dir), passage_length=161)


@pytest.mark.parametrize(
    ("system", "kept"),
    [("tsf", (4, 8)), ("ffnn", (4, 8)), ("maxsim", (4, 8)), ("poly", (1, 8)), ("dse", (1, 1)),
     ("de-cos", (1, 1)), ("de-ffnn", (1, 1))],
)  # fmt: skip
def test_tokens_that_a_system_does_not_read_are_not_kept(
    system: str, kept: tuple[int, int]
) -> None:
    config = DiPairConfig(system=system)
    assert (config.kept("query"), config.kept("passage")) == kept


def test_a_side_more_is_read_after_the_others_in_the_order_of_the_names(tmp_path: Path) -> None:
    """config.json has its keys sorted: another order would change what a saved head reads."""
    config = DiPairConfig(extra_sides={"title": [2, 10], "brand": [1, 6]}, passage_length=70)
    assert config.sides == ("query", "passage", "brand", "title")
    assert [config.kept(side) for side in config.sides] == [4, 8, 1, 2]
    assert [config.text_length(side) for side in config.sides] == [32, 70, 6, 10]
    config.save_pretrained(tmp_path)
    assert DiPairConfig.from_pretrained(tmp_path).sides == config.sides
    firsts = DiPairConfig(system="de-ffnn", extra_sides={"title": [2, 10]})
    assert (firsts.kept("title"), firsts.text_length("title")) == (1, 10)


def test_encoders_and_projections_may_be_shared_or_a_sides_own(tiny_encoder_dir: Path) -> None:
    def model(**settings: bool) -> DiPairModel:
        torch.manual_seed(0)
        return DiPairModel.from_encoder(str(tiny_encoder_dir), dim=16, **settings)

    shared, own = model(shared_projections=True), model(shared_encoder=False)
    assert shared.encoder_of("query") is shared.encoder_of("passage")
    assert list(shared.projections) == ["query"]
    states = torch.randn(2, 4, 32)
    torch.testing.assert_close(shared.project("passage", states), shared.project("query", states))
    assert own.encoder_of("query") is not own.encoder_of("passage")
    ids = {"input_ids": torch.tensor([[2, 9, 3]]), "attention_mask": torch.ones(1, 3)}
    own.eval()
    with torch.no_grad():
        before = [own.states(side, **ids)[:, 0] for side in ("query", "passage")]
        next(own.encoder_of("passage").parameters()).mul_(torch.randn(32))
        after = [own.states(side, **ids)[:, 0] for side in ("query", "passage")]
    torch.testing.assert_close(before[0], before[1])
    torch.testing.assert_close(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_without_a_projection_the_encoders_own_outputs_are_kept(
    tiny_encoder_dir: Path, tiny_tokenizer: Any
) -> None:
    model = DiPairModel.from_encoder(str(tiny_encoder_dir), dim=None, head_intermediate=8)
    encoded = DualEncoder(model, tiny_tokenizer, name="tiny").encode_passages(["the bees"])
    ids = tiny_tokenizer("the bees")["input_ids"]
    np.testing.assert_allclose(encoded.tokens[0], slow_states(model, ids, 8), atol=1e-6)
    assert model.config.token_dim == 32


def test_a_tuple_is_scored_alike_from_texts_states_and_encoded_tokens(
    tiny_encoder_dir: Path, tiny_tokenizer: Any
) -> None:
    torch.manual_seed(0)
    model = DiPairModel.from_encoder(
        str(tiny_encoder_dir), dim=16, head_intermediate=32,
        extra_sides={"title": [3, 9], "brand": [2, 8]},
    ).eval()  # fmt: skip
    texts = {
        "query": ["why bees dance", "lava"],
        "passage": ["bees", "the honey bees dance in winter", "tea", "lava ash"],
        "title": ["queen", "the queen of the honey bees and the winter", "moon", "a"],
        "brand": ["solar", "piano keys", "tide", "ice"],
    }
    encoder = DualEncoder(model, tiny_tokenizer, name="tiny")
    tokens = [torch.tensor(encoder.encode(side, texts[side]).tokens) for side in model.config.sides]
    inputs = {}
    for side, each in texts.items():
        batch = tiny_tokenizer(
            each, padding=True, truncation=True, max_length=model.config.text_length(side),
            return_tensors="pt",
        )  # fmt: skip
        inputs[side] = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        states = {side: model.states(side, **inputs[side]) for side in texts}
        grouped = {
            side: each if side == "query" else each.unflatten(0, (2, 2))
            for side, each in states.items()
        }
        from_texts = model(texts=inputs).logits
        from_states = model(states=grouped).logits
        from_tokens = model.head(tokens[0].repeat_interleave(2, 0), *tokens[1:])
        other = model.head(tokens[0].repeat_interleave(2, 0), *tokens[1:3], tokens[3].flip(0))
    torch.testing.assert_close(from_texts, from_states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(from_texts.flatten(), from_tokens, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(from_tokens, other, atol=1e-5)
    assert sum(encoder.tokenised(side, texts[side]).truncated for side in texts) == 1
    with pytest.raises(SettingsError, match="of query, passage, brand, title, got those of query"):
        model(texts={"query": inputs["query"]})


def test_more_layers_than_the_encoder_has_are_refused(tiny_encoder_dir: Path) -> None:
    assert (
        DiPairModel.from_encoder(str(tiny_encoder_dir), layers=2).encoder.config.num_hidden_layers
        == 2
    )
    with pytest.raises(SettingsError, match="--layers 3 is more than the encoder's 2: pass 2 or"):
        DiPairModel.from_encoder(str(tiny_encoder_dir), layers=3)
