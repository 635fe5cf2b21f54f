"""Scores pairs or tuples of texts with a DiPair model or a cross-encoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from dipair_index.encoders.cross_encoders import open_teacher
from dipair_index.encoders.given_sides import give_all
from dipair_index.errors import ModelError
from dipair_index.formats.token_files import GivenTokens
from dipair_index.models.packaged import PACKAGED_MODELS
from dipair_index.models.sources import loading
from dipair_index.models.torch_setup import prepare_torch, prepare_torch_for
from dipair_index.records import FloatArray

if TYPE_CHECKING:
    from dipair_index.encoders.dual_encoder import DualEncoder

Texts: TypeAlias = Mapping[str, list[str]]
"""The texts of tuples by side, "query" first, each (tuples,)."""
Scorer: TypeAlias = Callable[[Texts], FloatArray]
"""A function that returns one logit per tuple, (tuples,), or (tuples, outputs) if several."""

FOLLOWING = (
    "name a folder that `dipair-index train` or `train-teacher` has written, a hub model that can "
    "be reached, or an ONNX file"
)
"""The next step, at the end of an error, if no model of either kind has the name."""
TUPLES_AT_ONCE = 1024
TOKENS_AT_ONCE = 16 * 1024
"""The tokens of the tuples that the head reads at once; those of prettr's are many."""


def scores_of_model(
    model: str, texts: Texts, *, device: str = "cpu", report: Callable[[int], None]
) -> FloatArray:
    """Returns one logit per tuple, (tuples,), of a DiPair model or a cross-encoder.

    Several outputs are grades from 0, and the logit is that of the expected grade. `report` is
    called with the number of tuples scored so far. Raises `ModelError` if there is no such model,
    or if a score is not a finite number.
    """
    score, count = open_scorer(model, tuple(texts), device=device), len(texts["query"])
    # a DiPair model gets all tuples at once, to encode each different text once
    at_once = count if is_dipair(model) else TUPLES_AT_ONCE
    scores = np.empty(count, np.float32)
    for start in range(0, count, at_once):
        rows = slice(start, start + at_once)
        logits = score({side: column[rows] for side, column in texts.items()})
        scores[rows] = logits if logits.ndim == 1 else _served(logits)
        report(min(rows.stop, count))
    if not np.isfinite(scores).all():
        raise ModelError(f"{model} gave a score that is not a number: it cannot be measured")
    return scores


def _served(logits: FloatArray) -> FloatArray:
    """Returns one logit per tuple, (tuples,), by `served_logits` of (tuples, outputs)."""
    import torch

    from dipair_index.models.heads import served_logits

    served: FloatArray = served_logits(torch.from_numpy(logits)).numpy()
    return served


def open_scorer(
    model: str,
    sides: tuple[str, ...],
    *,
    device: str = "cpu",
    given: Mapping[str, GivenTokens] | None = None,
) -> Scorer:
    """Loads a DiPair model or a cross-encoder to score tuples of these sides.

    `given` are the tokens of the model's given sides, whose texts are the ids of items. Raises
    `ModelError` if there is no such model, or it is known to be trained on other sides.
    """
    if not is_dipair(model):
        if given:
            raise ModelError(f"{model} is a cross-encoder, which reads texts alone: omit --side")
        order = order_of_sides(model, sides)
        teacher = open_teacher(model, device=device)
        return lambda texts: teacher.logits(*(texts[side] for side in order))
    prepare_torch(device, needed_by=f"scoring with {model}")
    from dipair_index.encoders.dual_encoder import DualEncoder

    encoder = DualEncoder.load(model, device=device)
    _check_sides(model, encoder.model.config.sides, sides)
    give_all(encoder, given or {})
    return lambda texts: score_tuples(encoder, texts)


def order_of_sides(cross_encoder: str, sides: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the order of these sides in a cross-encoder's training, which records it.

    Without such a record, it is the order of `sides`. Raises `ModelError` if the cross-encoder was
    trained on other sides.
    """
    try:
        record = json.loads((Path(cross_encoder) / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return sides
    trained = tuple(record["sides"]) if isinstance(record, dict) and "sides" in record else sides
    _check_sides(cross_encoder, trained, sides)
    return trained


def _check_sides(model: str, reads: Sequence[str], sides: Sequence[str]) -> None:
    if set(reads) != set(sides):
        raise ModelError(
            f"{model} reads {', '.join(reads)}, and these are tuples of {', '.join(sides)}: name "
            "a model that was trained on such tuples"
        )


def score_tuples(encoder: DualEncoder, texts: Texts) -> FloatArray:
    """Returns the head's logits, (tuples,) or (tuples, classes); encodes each different text once.

    `texts` holds the model's sides, each (tuples,).
    """
    import torch

    model = encoder.model
    tokens, rows = [], []
    for side in model.config.sides:
        different, inverse = np.unique(np.array(texts[side], object), return_inverse=True)
        tokens.append(encoder.encode(side, list(different)).tokens)
        rows.append(inverse)
    blocks = [np.empty(0, np.float32)]
    at_once = max(1, TOKENS_AT_ONCE // sum(map(model.config.kept, model.config.sides)))
    with torch.inference_mode():
        for start in range(0, len(texts["query"]), at_once):
            block = slice(start, start + at_once)
            inputs = [
                torch.from_numpy(of_side[inverse[block]]).to(model.device)
                for of_side, inverse in zip(tokens, rows, strict=True)
            ]
            blocks.append(model.head(*inputs).float().cpu().numpy())
    return np.concatenate(blocks[1:] or blocks)


def is_dipair(model: str) -> bool:
    """Returns whether a model is a DiPair model; if not, it is taken for a cross-encoder.

    Raises `ModelError` if there is no such model.
    """
    if model in PACKAGED_MODELS:
        return True
    if model.endswith(".onnx") or (Path(model) / "model.onnx").is_file():
        return False
    prepare_torch_for(model, kind="model", following=FOLLOWING, needed_by=f"scoring with {model}")
    from transformers import PretrainedConfig

    with loading("model", model, FOLLOWING):
        config = PretrainedConfig.get_config_dict(model)[0]
        if "model_type" not in config:
            raise ValueError("it has no config.json that names its kind")
    return bool(config["model_type"] == "dipair")
