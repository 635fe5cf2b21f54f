"""Writes ONNX graphs whose weights are those in a model's own safetensors files.

A weight becomes external data: (file, offset, length). The graph converts it from half precision,
or from int8 with a scale for each row, to the float32 numbers that torch computes with; ONNX
Runtime does that once, when it loads the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from dipair_index.errors import ModelError
from dipair_index.files import write_whole
from dipair_index.models.stored_tensors import StoredTensor
from dipair_index.models.systems import EncodingPrecision

ELEMENTS = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16,
            "I8": TensorProto.INT8}  # fmt: skip
"""The types of numbers by their names in safetensors."""

ZERO_POINT = 128
"""The zero point of uint8."""

ONNX_RUNTIMES_OWN = {"FusedMatMul", "MultiHeadAttention", "BiasGelu"}
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]


class Graph:
    """A graph that grows operation by operation; values are strings, as in ONNX.

    `graph("Add", one, other)` returns the name of their sum. Weights are torch parameters of
    `model`, found in `stored` by the names they have there.
    """

    def __init__(
        self,
        model: nn.Module,
        stored: dict[str, StoredTensor],
        precision: EncodingPrecision = "float32",
    ) -> None:
        self._stored = stored
        self._precision = precision
        # a tensor that stands at two places of the model may be stored under either name
        self._names = {
            tensor.data_ptr(): name for name, tensor in model.state_dict().items() if name in stored
        }
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._widened: dict[str, str] = {}
        self._rounded: dict[str, tuple[str, str]] = {}

    def __call__(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operation with one result; "" stands for an input that is left out."""
        return self.several(operation, 1, *inputs, **attributes)[0]

    def several(self, operation: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Adds an operation with `count` results."""
        results = [f"{len(self._nodes)}.{place}" for place in range(count)]
        domain = "com.microsoft" if operation in ONNX_RUNTIMES_OWN else ""
        self._nodes.append(
            helper.make_node(operation, inputs, results, domain=domain, **attributes)
        )
        return results

    def input(self, name: str, element: int, shape: Sequence[str | int]) -> str:
        """Adds an input; names in `shape` stand for any length."""
        self._inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def constant(self, value: Any) -> str:
        """A small array of int64 or float32; one of uint8 or int32 stays so."""
        array = np.asarray(value)
        if array.dtype not in (np.uint8, np.int32):
            array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        name = f"{array.dtype}{array.tolist()}"
        self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def weight(self, tensor: Tensor) -> str:
        """A parameter in float32."""
        name = self._name(tensor)
        if name not in self._widened:
            self._widened[name] = self._float32(name)
        return self._widened[name]

    def rows(self, tensor: Tensor, ids: str) -> str:
        """Rows of a table in float32: (..., ) to (..., columns); the table is never widened."""
        return self._float32(self._name(tensor), ids)

    def product(self, inputs: str, weight: Tensor) -> str:
        """The product inputs @ weight.T, (..., in) to (..., out).

        With the precision "int8", both factors are int8 if the weight is stored so. Each row of the
        inputs has its own scale, so that a text's output does not depend on the rest of its batch.
        """
        name = self._name(weight)
        if self._precision == "float32" or f"{name}.scale" not in self._stored:
            return self("FusedMatMul", inputs, self.weight(weight), transB=1)
        rounded, scale = self._round(inputs)
        columns = self("Transpose", self._unsigned(name), perm=[1, 0])
        zero_point = self.constant(np.uint8(ZERO_POINT))
        product = self("MatMulInteger", rounded, columns, zero_point, zero_point)
        product = self("Mul", self("Cast", product, to=TensorProto.FLOAT), scale)
        return self("Mul", product, self._float32(f"{name}.scale"))

    def inline(
        self, traced: onnx.GraphProto, inputs: dict[str, str], weights: Mapping[str, Tensor]
    ) -> str:
        """Adds the nodes of a traced graph; returns its output.

        `inputs` are values of this graph by the traced graph's names; `weights` are its other
        inputs. A product with a weight, and a table's rows, become those of `product` and `rows`.
        """
        named, columns = dict(inputs), dict[str, Tensor]()  # values, and transposed weights

        def value(name: str) -> str:
            if name in named:
                return named[name]
            if name in weights:
                return self.weight(weights[name])
            if name in columns:
                return self("Transpose", self.weight(columns[name]), perm=[1, 0])
            return name

        for node in traced.node:
            first, second = [*list(node.input), "", ""][:2]
            if node.op_type == "Transpose" and first in weights and weights[first].ndim == 2:
                columns[node.output[0]] = weights[first]
            elif node.op_type == "MatMul" and second in columns:
                named[node.output[0]] = self.product(value(first), columns[second])
            elif node.op_type == "Gather" and first in weights and not node.attribute:
                named[node.output[0]] = self.rows(weights[first], value(second))
            else:
                node.input[:] = map(value, node.input)
                named |= {name: f"traced/{name}" for name in node.output if name}
                node.output[:] = map(value, node.output)
                self._nodes.append(node)
        return value(traced.output[0].name)

    def linear(self, inputs: str, module: nn.Linear) -> str:
        """A linear layer with its bias, (..., in) to (..., out)."""
        product = self.product(inputs, module.weight)
        # not every projection has a bias, though torch's types say so
        bias: Tensor | None = module.bias
        return product if bias is None else self("Add", product, self.weight(bias))

    def norm(self, inputs: str, module: nn.LayerNorm) -> str:
        """Layer normalisation over the last axis."""
        weights = self.weight(module.weight), self.weight(module.bias)
        return self("LayerNormalization", inputs, *weights, axis=-1, epsilon=module.eps)

    def norm_of_sum(self, one: str, other: str, module: nn.LayerNorm, *bias: str) -> str:
        """The norm of one + other + bias, (..., dim).

        ONNX Runtime's own operation for that takes three times as long.
        """
        for each in (other, *bias):
            one = self("Add", one, each)
        return self.norm(one, module)

    def feed_forward(self, hidden: str, up: nn.Linear, down: nn.Linear, norm: nn.LayerNorm) -> str:
        """The second half of a transformer layer, with GELU."""
        wide = self("BiasGelu", self.product(hidden, up.weight), self.weight(up.bias))
        narrow = self.product(wide, down.weight)
        return self.norm_of_sum(narrow, hidden, norm, self.weight(down.bias))

    def unit(self, rows: str, eps: float) -> str:
        """Rows of unit length, (..., dim), as torch's `normalize` computes them."""
        length = self("Max", self("ReduceL2", rows, axes=[-1]), self.constant(eps))
        return self("Div", rows, length)

    def save(self, path: Path, outputs: dict[str, tuple[str, Sequence[str | int]]]) -> None:
        """Writes the graph; `outputs` are (value, shape) by name."""
        for name, (value, _) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [value], [name]))
        graph = helper.make_graph(
            self._nodes,
            path.stem,
            self._inputs,
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, (_, shape) in outputs.items()
            ],
            list(self._initializers.values()),
        )
        # the versions that ONNX Runtime 1.17 reads
        model = helper.make_model(graph, opset_imports=OPSETS, ir_version=9)
        write_whole(path, model.SerializeToString(), together=True)

    def _round(self, inputs: str) -> tuple[str, str]:
        """Quantises rows to integers around `ZERO_POINT`, with a scale each; once for all products.

        Unsigned, as the weights are: signed by signed numbers took six times as long.
        """
        if inputs not in self._rounded:
            largest = self("ReduceMax", self("Abs", inputs), axes=[-1], keepdims=1)
            scale = self("Div", self("Max", largest, self.constant(1e-20)), self.constant(127.0))
            whole = self("Round", self("Div", inputs, scale))
            whole = self("Add", whole, self.constant(float(ZERO_POINT)))
            self._rounded[inputs] = self("Cast", whole, to=TensorProto.UINT8), scale
        return self._rounded[inputs]

    def _unsigned(self, name: str) -> str:
        """A weight stored in int8 as uint8, around `ZERO_POINT`.

        On x86 processors without VNNI, products of unsigned and signed numbers are added in pairs
        in 16 bits, where large ones saturate: only unsigned by unsigned is exact everywhere.
        """
        wide = self("Cast", self._external(name), to=TensorProto.INT32)
        shifted = self("Add", wide, self.constant(np.int32(ZERO_POINT)))
        return self("Cast", shifted, to=TensorProto.UINT8)

    def _name(self, tensor: Tensor) -> str:
        try:
            return self._names[tensor.data_ptr()]
        except KeyError:
            raise ModelError(
                "a weight of the model is not in its files: save the model before exporting it"
            ) from None

    def _float32(self, name: str, ids: str | None = None) -> str:
        values = self._external(name)
        if ids is not None:
            values = self("Gather", values, ids)
        if self._stored[name].dtype != "F32":
            values = self("Cast", values, to=TensorProto.FLOAT)
        if f"{name}.scale" in self._stored:
            scale = self._float32(f"{name}.scale", ids)
            values = self("Mul", values, self("Unsqueeze", scale, self.constant([-1])))
        return values

    def _external(self, name: str) -> str:
        place = self._stored[name]
        if place.dtype not in ELEMENTS:
            raise ModelError(
                f"the weight {name} is stored as {place.dtype}, which cannot be exported: save "
                "the model in float32, float16 or int8"
            )
        tensor = TensorProto(name=name, dims=place.shape, data_type=ELEMENTS[place.dtype])
        tensor.data_location = TensorProto.EXTERNAL
        for key in ("file", "offset", "length"):
            known = "location" if key == "file" else key
            tensor.external_data.add(key=known, value=str(getattr(place, key)))
        self._initializers[name] = tensor
        return name
