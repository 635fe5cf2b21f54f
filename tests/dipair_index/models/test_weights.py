from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import ModelError
from dipair_index.models.weights import load_model, quantised, round_weights, save_weights


def test_int8_rows_are_within_half_a_step_of_their_matrix() -> None:
    matrix = torch.tensor([[0.5, -1.27, 0.004], [0.0, 0.0, 0.0], [1e-3, 2e-3, -2.54e-3]])
    values, scale = quantised(matrix)
    assert values.tolist() == [[50, -127, 0], [0, 0, 0], [50, 100, -127]]
    np.testing.assert_allclose(scale[[0, 2]], [0.01, 2e-5], rtol=1e-5)
    assert torch.all((values * scale[:, None] - matrix).abs() <= scale[:, None] / 2 + 1e-9)


def test_int8_halves_the_matrices_of_the_encoder_and_loads_as_rounded(
    tiny_model_dir: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    first = DualEncoder.load(tiny_model_dir)
    before = first.encode_passages(["green tea leaves", "bees dance"])
    save_weights(first.model, tmp_path, codec="int8")
    tiny_tokenizer.save_pretrained(tmp_path)
    second = DualEncoder.load(tmp_path)
    assert second.fingerprint != first.fingerprint
    after = second.encode_passages(["green tea leaves", "bees dance"])
    assert (before.vectors * after.vectors).sum(1).min() > 0.999
    round_weights(first.model, "int8")
    rounded = first.encode_passages(["green tea leaves", "bees dance"])
    np.testing.assert_array_equal(rounded.tokens, after.tokens)
    stored = load_file(tmp_path / "trained.safetensors")
    kinds = {name: str(tensor.dtype) for name, tensor in stored.items()}
    matrix = next(name for name in kinds if name.endswith("attention.self.query.weight"))
    assert kinds[matrix] == "torch.int8"
    assert kinds[f"{matrix}.scale"] == "torch.float32"
    assert kinds["head.output.weight"] == "torch.float16"


def test_weights_that_do_not_fit_the_config_are_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = load_model(tiny_model_dir)
    save_weights(model, tmp_path, codec="int8")
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(
        text.replace('"head_layers": 2', '"head_layers": 3'), encoding="utf-8"
    )
    with pytest.raises(ModelError, match=r"do not fit its config\.json"):
        load_model(tmp_path)
