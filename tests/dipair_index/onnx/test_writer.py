"""Products of whole numbers in a graph, which must be exact under every kernel of ONNX Runtime."""

from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto
from safetensors.torch import save_file
from torch import nn

from dipair_index.models.stored_tensors import stored_tensors
from dipair_index.onnx.graphs import open_session
from dipair_index.onnx.writer import Graph


def test_int8_products_are_exact_for_the_largest_numbers(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    weights = draw.choice([-127, -126, 1, 126, 127], size=(48, 64)).astype(np.int8)
    scales = 2.0 ** draw.integers(-3, 3, 48)
    # every row holds 127, so that its scale is 1 and its numbers are kept as they are
    rows = draw.choice([-127, -100, 3, 126, 127], size=(40, 64))
    rows[:, 0] = 127
    stored = {"weight": torch.from_numpy(weights), "weight.scale": torch.from_numpy(scales).float()}
    save_file(stored, tmp_path / "model.safetensors")
    layer = nn.Linear(64, 48, bias=False)

    graph = Graph(layer, stored_tensors(tmp_path), "int8")
    product = graph.product(graph.input("rows", TensorProto.FLOAT, ["rows", 64]), layer.weight)
    graph.save(tmp_path / "product.onnx", {"product": (product, ["rows", 48])})
    (made,) = open_session(tmp_path / "product.onnx").run(None, {"rows": rows.astype(np.float32)})

    # whole numbers below 2**24 times powers of two: float32 holds them exactly
    np.testing.assert_array_equal(made, rows @ weights.T.astype(int) * scales)
