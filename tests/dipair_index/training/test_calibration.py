from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dipair_index.models.dipair import DiPairModel
from dipair_index.training.calibration import fit_similarity
from dipair_index.training.losses import LOSSES


def batches(model: DiPairModel, scale: float, bias: float) -> list[dict[str, Any]]:
    """Labels that are scale * similarity + bias, but for a passage without any."""
    random = torch.Generator().manual_seed(0)
    made = []
    for _ in range(20):
        config = model.config
        states = {
            "query": torch.randn(1, config.max_query_tokens, config.vector_dim, generator=random),
            "passage": torch.randn(
                1, 6, config.max_passage_tokens, config.vector_dim, generator=random
            ),
        }
        with torch.no_grad():
            similarity = (model(states=states).logits + 10) / 20  # undoes how a new head begins
        labels = scale * similarity + bias
        labels[0, 5] = torch.nan
        made.append({"states": states, "labels": labels})
    return made


@pytest.mark.parametrize("system", ["tsf", "ffnn", "maxsim", "de-cos", "poly"])
@pytest.mark.parametrize("loss", ["binary", "regression", "both"])
def test_the_scale_and_bias_of_the_labels_are_found(
    system: str, loss: str, tiny_encoder_dir: Path
) -> None:
    model = DiPairModel.from_encoder(
        str(tiny_encoder_dir), system=system, dim=16, similarity_residual="maxsim"
    ).eval()
    data = batches(model, 7.0, -3.0)
    fit_similarity(model, data, LOSSES[loss], 1.0)
    with torch.no_grad():
        for batch in data[:3]:
            logits = model(states=batch["states"]).logits
            torch.testing.assert_close(logits[:, :5], batch["labels"][:, :5], atol=0.05, rtol=0.02)


def test_labels_that_contradict_the_similarity_leave_it_as_it_was(tiny_encoder_dir: Path) -> None:
    model = DiPairModel.from_encoder(str(tiny_encoder_dir), system="maxsim", dim=16).eval()
    fit_similarity(model, batches(model, -7.0, 3.0), LOSSES["regression"], 1.0)
    assert (model.head.similarity_scale.item(), model.head.bias.item()) == (20.0, -10.0)


def test_a_head_without_a_similarity_is_left_alone(tiny_encoder_dir: Path) -> None:
    model = DiPairModel.from_encoder(str(tiny_encoder_dir), dim=16, head_intermediate=32)
    before = {name: tensor.clone() for name, tensor in model.head.state_dict().items()}
    fit_similarity(model, batches(model, 7.0, -3.0), LOSSES["both"], 1.0)
    for name, tensor in model.head.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
