"""Pretrained models of transformers, checked when they are loaded.

transformers initialises weights that a checkpoint lacks at random, and a model that is no encoder
fails only with its first batch. Here both are a `ModelError` when the model is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from dipair_index.errors import ModelError, SettingsError
from dipair_index.models.hub import check_there
from dipair_index.models.sources import (
    CROSS_ENCODER,
    CROSS_ENCODER_NEXT,
    ENCODER,
    NEXT,
    encoder_source,
    loading,
)
from dipair_index.words import listed, reason


def load_encoder(
    name: str, *, layers: int | None = None, following: str = NEXT
) -> tuple[Any, frozenset[str], bool]:
    """Loads an encoder in float32, in evaluation mode, by folder or hub name.

    Returns the encoder, the names of the weights on which no output depends, such as those of
    BERT's pooler, and whether the checkpoint holds all of these weights; otherwise they are random.
    `layers` is how many layers to load, from the first; None loads all. Raises `ModelError` if
    there is no such encoder, if it is damaged or no encoder of texts, and if weights on which the
    output depends are missing; `SettingsError` if it has fewer than `layers` layers.
    """
    model, missing = load_weights(
        AutoModel, encoder_source(name), name, ENCODER,
        following=following, **first_layers(name, layers),
    )  # fmt: skip
    weights = dict(model.named_parameters())
    read = weights_read(model, weights, name)
    lacking = [weight for weight in missing if weight in read]
    if lacking:
        raise ModelError(
            f"{name} lacks {listed(lacking)}, which would be random: save the whole model again, "
            "or name another encoder"
        )
    never_read = frozenset(weights.keys() - set(read)).union(missing)
    return model, never_read, not missing


def load_classifier(name: str, *, layers: int | None = None, outputs: int) -> Any:
    """Loads an encoder with a classifier of `outputs` outputs, new and random if it has none.

    Raises `ModelError` and `SettingsError` as `load_encoder` does.
    """
    model, missing = load_weights(
        AutoModelForSequenceClassification, encoder_source(name), name, ENCODER,
        num_labels=outputs, **first_layers(name, layers),
    )  # fmt: skip
    body = f"{model.base_model_prefix}."
    inside = [weight.removeprefix(body) for weight in missing if weight.startswith(body)]
    read = weights_read(model.base_model, inside, name)
    if read:
        raise ModelError(
            f"{name} lacks {listed(read)}, which would be random: save the whole model again, or "
            "name another encoder"
        )
    return model


def load_cross_encoder(name: str) -> Any:
    """Loads a cross-encoder in float32, in evaluation mode, by folder or hub name.

    Raises `ModelError` if there is none, and if it has no trained classifier.
    """
    model, missing = load_weights(
        AutoModelForSequenceClassification, name, name, CROSS_ENCODER,
        following=CROSS_ENCODER_NEXT,
    )  # fmt: skip
    if missing:
        raise ModelError(
            f"{name} is no cross-encoder, since it has no {listed(missing)}, which would be "
            f"random: run `dipair-index train-teacher --encoder {name}`, or name a cross-encoder"
        )
    return model


def readable_tokens(model: nn.Module) -> int | None:
    """Returns a model's maximum length in tokens, special tokens included; None is no limit."""
    limits = [getattr(model.config, "max_position_embeddings", None)]
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding):
            # in RoBERTa and its relatives, positions start after the index of padding
            reserved = 0 if table.padding_idx is None else table.padding_idx + 1
            limits.append(table.num_embeddings - reserved)
    # some families have -1 for no limit
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)


def first_layers(name: str, layers: int | None) -> dict[str, Any]:
    """Returns the settings with which transformers loads only the first `layers` layers.

    None loads all of them. Raises `SettingsError` if the encoder has fewer: the missing layers
    would be random.
    """
    if layers is None:
        return {}
    try:
        source = encoder_source(name)
        check_there(source)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        depth = getattr(config, "num_hidden_layers", None)
    except (OSError, ValueError):
        depth = None  # there is no such encoder: loading it raises the error
    if depth is not None and layers > depth:
        raise SettingsError(
            f"--layers {layers} is more than the encoder's {depth}: pass {depth} or fewer"
        )
    return {"num_hidden_layers": layers}


def load_weights(
    loader: Any, source: str | None, name: str, kind: str, *, following: str = NEXT, **settings: Any
) -> tuple[Any, list[str]]:
    """Loads a model with `loader.from_pretrained`; returns it and the missing weights, sorted.

    Code in the model's folder is never run. Raises `ModelError` if the model cannot be loaded, if
    the shapes of weights do not fit its config.json, and if a weight is not finite or stored as
    integers without a scale. The sentence calls the model a `kind` and ends with `following`, the
    next step.
    """
    folder = Path(source or "")
    if source is not None and (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{name} holds an adapter of another model, as its adapter_config.json says: merge the "
            "two with PEFT's merge_and_unload, save the result, and name that"
        )
    with loading(kind, name, following):
        if source is not None:
            check_there(source)
        # in float32 whatever it was saved in, since numpy has no bfloat16
        model, loaded = loader.from_pretrained(
            source,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            **settings,
        )
    if loaded["mismatched_keys"]:
        weight, stored, expected = min(loaded["mismatched_keys"])
        raise ModelError(
            f"the weights of {name} do not fit its config.json: {weight} is "
            f"{shape(stored)}, not {shape(expected)}: {following}"
        )
    refuse_not_finite(model, name)
    if source is not None:
        refuse_whole_numbers(model, folder, name)
    return model, sorted(loaded["missing_keys"])


def refuse_not_finite(model: nn.Module, name: str) -> None:
    """Raises `ModelError` if a weight is NaN or infinite."""
    for weight, values in model.named_parameters():
        if not torch.isfinite(values).all():
            raise ModelError(
                f"{name} holds numbers in {weight} that are not finite: its training diverged or "
                "its file is damaged, name another"
            )


def refuse_whole_numbers(model: nn.Module, folder: Path, name: str) -> None:
    """Raises `ModelError` if a folder's files hold integers as a weight of a model.

    transformers would load these as the weight itself, without the scale that they need.
    """
    # names of weights start with the prefix of the base model if it was saved with a head
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    weights = {weight.removeprefix(prefix) for weight, _ in model.named_parameters()}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as stored:
            for weight in stored.keys():  # noqa: SIM118 - no mapping
                if weight.removeprefix(prefix) not in weights:
                    continue
                kind = stored.get_slice(weight).get_dtype()
                if not kind.startswith(("F", "BF")):
                    raise ModelError(
                        f"{name} holds {weight} as {kind}, whole numbers without a scale: save it "
                        "in float32, float16 or bfloat16"
                    )


def weights_read(model: Any, names: Collection[str], name: str) -> list[str]:
    """Returns the names, out of `names`, of the weights on which a model's output depends.

    The model encodes a few tokens to find out. Raises `ModelError` if the model is no encoder of
    texts, whose output is one vector of its hidden size per token, and if padding changes these
    vectors.
    """
    kind = f"{name} is no encoder that can be used here"
    if model.config.is_encoder_decoder:
        raise ModelError(f"{kind}, since it has a decoder: name a model such as BERT")
    ids = torch.arange(min(8, readable_tokens(model) or 8))[None]  # (1, tokens)
    mask = torch.ones_like(ids)
    # the same tokens, with padding in place of the last
    shorter = (mask.cumsum(1) < ids.shape[1]).to(mask.dtype)
    try:
        with torch.enable_grad():
            hidden = model(input_ids=ids, attention_mask=mask)[0]
        with torch.no_grad():
            alone = model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1])[0]
            padded = model(input_ids=ids, attention_mask=shorter)[0][:, :-1]
        fits = hidden.shape == (*ids.shape, model.config.hidden_size)
    # models of other kinds, such as those of images or sounds, raise errors of many types
    except Exception as error:
        raise ModelError(f"{kind} ({reason(error)}): name a model such as BERT") from error
    if not fits:
        raise ModelError(
            f"{kind}, since its output is {shape(hidden.shape)}, not a vector a token: name a "
            "model such as BERT"
        )
    if padded.shape != alone.shape or (padded - alone).abs().max() > 0.01 * alone.abs().max():
        raise ModelError(
            f"{kind}, since what it makes of a text depends on the padding behind it: name a model "
            "such as BERT"
        )
    parameters = dict(model.named_parameters())
    lacking = [each for each in names if each in parameters]
    if not lacking:
        return []
    gradients = torch.autograd.grad(
        hidden.sum(), [parameters[each] for each in lacking], allow_unused=True
    )
    return [each for each, slope in zip(lacking, gradients, strict=True) if slope is not None]


def shape(sizes: Iterable[int]) -> str:
    """Returns sizes as "100 x 48"."""
    return " x ".join(map(str, sizes))
