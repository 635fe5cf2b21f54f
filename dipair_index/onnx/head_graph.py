"""The transformer head as an ONNX graph: the rearrangement of `FastHead`, from the same weights.

The graph holds the products of weights that make it fast (see `dipair_index.rerank.fast_head`) in
double precision; ONNX Runtime computes them once, when it loads the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from onnx import TensorProto
from torch import Tensor, nn

from dipair_index.models.dipair import DiPairModel
from dipair_index.models.stored_tensors import StoredTensor
from dipair_index.models.transformer_head import TransformerHead
from dipair_index.onnx.writer import Graph


def export_head(model: DiPairModel, stored: dict[str, StoredTensor], path: Path) -> None:
    """Writes a graph from `query` (1, N, dim) and `passages` (passages, M, dim) to `logits`."""
    config, head = model.config, cast(TransformerHead, model.head)
    kept, dim = config.max_query_tokens, config.token_dim
    graph = Graph(model, stored)
    query = graph.input("query", TensorProto.FLOAT, [1, kept, dim])
    shape = ["passages", config.max_passage_tokens, dim]
    passages = graph.input("passages", TensorProto.FLOAT, shape)
    count = graph("Shape", passages, start=0, end=1)
    position, segment = graph.weight(head.position), graph.weight(head.segment)
    begins = (0, kept, kept + config.max_passage_tokens)
    sides = []
    for side, tokens in enumerate((query, passages)):
        place = graph("Add", _rows(graph, position, *begins[side : side + 2], axis=0),
                      _rows(graph, segment, side, side + 1, axis=0))  # fmt: skip
        sides.append(graph.norm(graph("Add", tokens, place), head.norm))
    hidden = _together(graph, sides, count)
    *layers, last = cast("list[nn.TransformerEncoderLayer]", list(head.layers))
    for depth, each in enumerate(layers):
        layer = Layer(graph, each)
        if depth:
            projected = layer.project(hidden)
        else:  # the query's part is the same for all passages
            pairs = zip(*map(layer.project, sides), strict=True)
            projected = [_together(graph, pair, count) for pair in pairs]
        hidden = layer(hidden, projected)
    logits = graph.linear(_last_layer(graph, last, hidden), head.output)
    logits = graph("Reshape", logits, graph.constant([-1]))
    if head.has_residual:
        compared = [
            graph.unit(
                _rows(graph, tokens, 0, 1, axis=1)
                if head.similarity_residual == "cosine"
                else tokens,
                1e-12,
            )
            for tokens in (passages, query)
        ]
        cosines = graph("FusedMatMul", *compared, transB=1)  # (passages, M, N)
        similarity = graph("ReduceMean", graph("ReduceMax", cosines, axes=[1]), axes=[2])
        similarity = graph("Reshape", similarity, graph.constant([-1]))
        scaled = graph("Mul", similarity, graph.weight(head.similarity_scale))
        logits = graph("Add", logits, scaled)
    graph.save(path, {"logits": (logits, ["passages"])})


class _Merged:
    """The products of a layer's attention weights, one for each attention head."""

    def __init__(self, graph: Graph, layer: nn.TransformerEncoderLayer) -> None:
        attention = layer.self_attn
        heads, size, dim = attention.num_heads, attention.head_dim, attention.embed_dim

        def shaped(value: str, *shape: int) -> str:
            return graph("Reshape", value, graph.constant(list(shape)))

        def double(tensor: Tensor) -> str:
            return graph("Cast", graph.weight(tensor), to=TensorProto.DOUBLE)

        def single(value: str) -> str:
            return graph("Cast", value, to=TensorProto.FLOAT)

        weights = graph.several("Split", 3, double(attention.in_proj_weight), axis=0)
        query, key, value = (shaped(weight, heads, size, dim) for weight in weights)
        bias, _, value_bias = graph.several("Split", 3, double(attention.in_proj_bias), axis=0)
        scale = graph("Cast", graph.constant(size**-0.5), to=TensorProto.DOUBLE)
        query, bias = graph("Mul", query, scale), graph("Mul", bias, scale)
        output = double(attention.out_proj.weight)
        asked = graph("MatMul", graph("Transpose", key, perm=[0, 2, 1]), query)
        self.asked = single(shaped(asked, heads * dim, dim))
        asked_bias = graph("MatMul", shaped(bias, heads, 1, size), key)
        self.asked_bias = single(shaped(asked_bias, heads * dim))
        shares = graph("Transpose", shaped(output, dim, heads, size), perm=[1, 0, 2])
        joined = graph("Transpose", graph("MatMul", shares, value), perm=[1, 0, 2])
        self.joined = single(shaped(joined, dim, heads * dim))
        bias = graph("Add", double(attention.out_proj.bias), graph("MatMul", output, value_bias))
        self.joined_bias = single(bias)


class Layer:
    """A whole transformer layer."""

    def __init__(self, graph: Graph, layer: nn.TransformerEncoderLayer) -> None:
        self._graph, self._layer = graph, layer
        self._heads = layer.self_attn.num_heads
        self._merged = _Merged(graph, layer) if self._heads == 1 else None

    def project(self, hidden: str) -> list[str]:
        """Queries, keys and values of each token, or their merged forms, (pairs, tokens, dim)."""
        graph, attention = self._graph, self._layer.self_attn
        if self._merged:
            asked = graph("FusedMatMul", hidden, self._merged.asked, transB=1)
            asked = graph("Add", asked, self._merged.asked_bias)
            return [asked, graph("FusedMatMul", hidden, self._merged.joined, transB=1)]
        weights = graph.several("Split", 3, graph.weight(attention.in_proj_weight), axis=0)
        return [graph("FusedMatMul", hidden, weight, transB=1) for weight in weights]

    def __call__(self, hidden: str, projected: Sequence[str]) -> str:
        """The layer's output for `hidden` and its `project`, (pairs, tokens, dim)."""
        graph, layer = self._graph, self._layer
        if self._merged:
            asked, values = projected
            mixed = _attention(graph, asked, hidden, values)
            bias = self._merged.joined_bias
        else:
            output = layer.self_attn.out_proj
            own = graph.weight(layer.self_attn.in_proj_bias)
            mixed = graph("MultiHeadAttention", *projected, own, num_heads=self._heads)
            mixed = graph("FusedMatMul", mixed, graph.weight(output.weight), transB=1)
            bias = graph.weight(output.bias)
        middle = graph.norm_of_sum(mixed, hidden, layer.norm1, bias)
        return graph.feed_forward(middle, layer.linear1, layer.linear2, layer.norm2)


def _last_layer(graph: Graph, layer: nn.TransformerEncoderLayer, hidden: str) -> str:
    """A transformer layer for the first token alone: (pairs, tokens, dim) to (pairs, 1, dim)."""
    merged, attention = _Merged(graph, layer), layer.self_attn
    first = _rows(graph, hidden, 0, 1, axis=1)
    asked = graph("FusedMatMul", first, merged.asked, transB=1)
    asked = graph("Add", asked, merged.asked_bias)
    shape = graph.constant([0, attention.num_heads, attention.embed_dim])  # 0: as it is
    mixed = _attention(graph, graph("Reshape", asked, shape), hidden, hidden)
    mixed = graph("Reshape", mixed, graph.constant([0, 1, -1]))
    mixed = graph("FusedMatMul", mixed, merged.joined, transB=1)
    middle = graph.norm_of_sum(mixed, first, layer.norm1, merged.joined_bias)
    return graph.feed_forward(middle, layer.linear1, layer.linear2, layer.norm2)


def _attention(graph: Graph, asked: str, keys: str, values: str) -> str:
    """Attention of one head, whose scale is in the queries: (pairs, asked, dim)."""
    weights = graph("Softmax", graph("FusedMatMul", asked, keys, transB=1), axis=-1)
    return graph("MatMul", weights, values)


def _rows(graph: Graph, value: str, start: int, end: int, *, axis: int) -> str:
    bounds = (graph.constant([each]) for each in (start, end, axis))
    return graph("Slice", value, *bounds)


def _together(graph: Graph, sides: Sequence[str], count: str) -> str:
    """Concatenates the query's tokens and those of each passage."""
    query, passages = sides
    shape = graph("Concat", count, graph.constant([1, 1]), axis=0)
    return graph("Concat", graph("Expand", query, shape), passages, axis=1)
