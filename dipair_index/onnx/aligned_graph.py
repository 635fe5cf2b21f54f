"""The aligned head as an ONNX graph: the computation of `FastAligned`, from the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from onnx import TensorProto
from torch import nn

from dipair_index.models.aligned_head import ABSENT, AlignedHead
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.stored_tensors import StoredTensor
from dipair_index.models.transformer_head import LOWEST
from dipair_index.onnx.head_graph import Layer
from dipair_index.onnx.writer import Graph


def export_aligned_head(model: DiPairModel, stored: dict[str, StoredTensor], path: Path) -> None:
    """Writes a graph from `query` (1, N, dim) and `passages` (passages, M, dim) to `logits`."""
    config, head = model.config, cast(AlignedHead, model.head)
    graph = Graph(model, stored)
    shape = [1, config.max_query_tokens, config.token_dim]
    query = graph.input("query", TensorProto.FLOAT, shape)
    shape = ["passages", config.max_passage_tokens, config.token_dim]
    passages = graph.input("passages", TensorProto.FLOAT, shape)
    unit = graph.constant(float(head.unit))

    asked, count = _present(graph, query)  # (1, N), (1, 1)
    # absent tokens are at the end, and need no work; one token is left of a query without any
    length = graph("Squeeze", graph("Max", count, graph.constant(1.0)), graph.constant([1]))
    length = graph("Cast", length, to=TensorProto.INT64)
    query, asked = (_leading(graph, each, length, axis=1) for each in (query, asked))

    present, total = _present(graph, passages)  # (passages, M), (passages, 1)
    products = graph("FusedMatMul", query, passages, transB=1)  # (passages, n, M)
    axis = graph.constant([1])
    compared = graph("Cast", graph("Unsqueeze", present, axis), to=TensorProto.BOOL)
    two, index = graph.several(
        "TopK", 2, graph("Where", compared, products, graph.constant(LOWEST)), graph.constant([2])
    )
    two = graph("Max", two, graph.constant(ABSENT))
    products = graph("Mul", products, graph("Unsqueeze", present, axis))
    total = graph("Unsqueeze", graph("Max", total, graph.constant(1.0)), axis)
    mean = graph("Div", graph("ReduceSum", products, graph.constant([2])), total)
    best = graph("Slice", two, graph.constant([0]), graph.constant([1]), graph.constant([2]))
    first = graph("Slice", index, graph.constant([0]), graph.constant([1]), graph.constant([2]))
    met = graph("GatherND", passages, first, batch_dims=1)  # (passages, n, dim)

    met, asking = graph("Mul", unit, met), graph("Mul", unit, query)
    position = _leading(graph, graph.weight(head.position), length, axis=0)
    similarities = graph("Mul", unit, graph("Concat", two, mean, axis=2))
    hidden = graph.linear(graph("Mul", asking, met), head.product)
    for part in (
        graph("Add", graph.linear(asking, head.query), position),
        graph.linear(met, head.passage),
        graph.linear(similarities, head.similarities),
    ):
        hidden = graph("Add", hidden, part)
    hidden = graph.norm(hidden, head.norm)
    for each in cast("list[nn.TransformerEncoderLayer]", list(head.layers)):
        layer = Layer(graph, each)
        hidden = layer(hidden, layer.project(hidden))

    added, weight = graph.several("Split", 2, graph.linear(hidden, head.output), axis=2)
    centre = graph("Unsqueeze", graph.weight(head.centre), graph.constant([1]))
    similar = graph("Add", best, graph("MatMul", query, centre))  # (passages, n, 1)
    logits = graph("Mul", graph.weight(head.similarity_scale), similar)
    logits = graph("Add", logits, added)
    logits = graph("Add", logits, graph("Mul", graph("Mul", unit, weight), best))
    logits = graph("Mul", logits, graph("Unsqueeze", asked, graph.constant([2])))
    logits = graph("ReduceSum", logits, graph.constant([1, 2]), keepdims=0)
    logits = graph("Div", logits, graph("Cast", length, to=TensorProto.FLOAT))
    graph.save(path, {"logits": (graph("Add", logits, graph.weight(head.bias)), ["passages"])})


def _present(graph: Graph, tokens: str) -> tuple[str, str]:
    """Which tokens are not zeros, (texts, tokens) of 0.0 and 1.0, and their number, (texts, 1)."""
    largest = graph("ReduceMax", graph("Abs", tokens), axes=[-1], keepdims=0)
    present = graph("Greater", largest, graph.constant(0.0))
    present = graph("Cast", present, to=TensorProto.FLOAT)
    return present, graph("ReduceSum", present, graph.constant([1]), keepdims=1)


def _leading(graph: Graph, rows: str, count: str, axis: int) -> str:
    """The first `count` rows along an axis."""
    return graph("Slice", rows, graph.constant([0]), count, graph.constant([axis]))
