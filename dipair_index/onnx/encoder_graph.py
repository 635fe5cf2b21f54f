"""The encoder of a DiPair model as ONNX graphs, one for each side: token ids to kept tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from onnx import TensorProto
from torch import nn

from dipair_index.models.dipair import DiPairModel
from dipair_index.models.stored_tensors import StoredTensor
from dipair_index.models.systems import EncodingPrecision
from dipair_index.onnx.traced_graph import traced_hidden
from dipair_index.onnx.writer import Graph


def export_encoder(
    model: DiPairModel,
    side: str,
    stored: dict[str, StoredTensor],
    path: Path,
    precision: EncodingPrecision = "float32",
) -> None:
    """Writes a graph from `ids` (texts, tokens) and `lengths` (texts,), to `tokens` and `vectors`.

    A text has at least as many ids as tokens are kept. A BERT with GELU is written by hand, whose
    graph is the faster one; another encoder is traced. Raises `ModelError` if torch
    cannot trace it.
    """
    config = model.config
    encoder: Any = model.encoder_of(side)
    kept = config.kept(side)
    graph = Graph(model, stored, precision)
    ids = graph.input("ids", TensorProto.INT64, ["texts", "tokens"])
    lengths = graph.input("lengths", TensorProto.INT32, ["texts"])
    count = graph("Shape", ids, start=1, end=2)
    # if nothing else of the output is used, the last layer computes the kept tokens alone
    alone = config.pooling == "cls" and config.keep == "first" and _is_bert(encoder.config)
    if _is_bert(encoder.config):
        hidden = _embedded(graph, encoder.embeddings, ids, count)
        layers = list(encoder.encoder.layer)
        for depth, layer in enumerate(layers):
            last = alone and depth == len(layers) - 1
            asking = _leading(graph, hidden, kept) if last else hidden
            hidden = _layer(graph, layer, asking, hidden, lengths, encoder.config)
    else:
        hidden = traced_hidden(graph, encoder, ids, lengths, count)
    places: Sequence[str | int] = ["texts", kept, config.token_dim]
    if config.pooling == "linear" or config.keep == "clusters":
        pooled = _pooled(graph, model, hidden, lengths, count)
    if config.keep == "clusters":
        tokens = _unit_tokens(graph, model, side, hidden, lengths, count)
        if side == "query":
            tokens = _leading(graph, tokens, kept)
        else:  # which the encoder pools
            places = ["texts", "tokens", config.token_dim]
    else:
        tokens = _states(graph, config, side, hidden, lengths, count, alone)
        if config.pooling != "linear":
            pooled = graph("Squeeze", _leading(graph, tokens, 1), graph.constant([1]))
        if config.dim is not None:
            tokens = graph.linear(tokens, _projection(model, side))
    graph.save(
        path,
        {
            "tokens": (tokens, places),
            "vectors": (graph.unit(pooled, 1e-12), ["texts", config.vector_dim]),
        },
    )


def _is_bert(config: Any) -> bool:
    """Whether the graph written by hand is that of this encoder."""
    activation, decoder = (getattr(config, name, None) for name in ("hidden_act", "is_decoder"))
    return config.model_type == "bert" and activation == "gelu" and not decoder


def _projection(model: DiPairModel, side: str) -> nn.Linear:
    return cast(nn.Linear, model.projections["query" if model.config.shared_projections else side])


def _unit_tokens(
    graph: Graph, model: DiPairModel, side: str, hidden: str, lengths: str, count: str
) -> str:
    """The tokens of which clusters are made, zero beyond the end of a text: `unit_tokens`."""
    tokens = graph.unit(graph.linear(hidden, _projection(model, side)), 1e-12)
    if side != "query":
        tokens = graph("Sub", tokens, graph.weight(model.centre))
    return _inside(graph, tokens, lengths, count)


def _pooled(graph: Graph, model: DiPairModel, hidden: str, lengths: str, count: str) -> str:
    """The pooled vector of each text, (texts, hidden), before it is normalised."""
    first = graph("Squeeze", _leading(graph, hidden, 1), graph.constant([1]))
    if model.config.pooling == "cls":
        return first
    mean = _mean(graph, _inside(graph, hidden, lengths, count), lengths)
    if model.config.pooling == "mean":
        return mean
    both = graph("Concat", first, mean, axis=1)
    return graph.linear(both, model.vector_map)


def _inside(graph: Graph, hidden: str, lengths: str, count: str) -> str:
    """Hidden states, zero beyond the end of each text."""
    lengths = graph("Cast", graph("Unsqueeze", lengths, graph.constant([1])), to=TensorProto.INT64)
    return _masked(
        graph, hidden, _span(graph, graph("Squeeze", count, graph.constant([0]))), lengths
    )


def _mean(graph: Graph, inside: str, lengths: str) -> str:
    """The mean of each text's hidden states, which are zero beyond its end: (texts, hidden)."""
    total = graph("ReduceSum", inside, graph.constant([1]), keepdims=0)
    lengths = graph("Cast", graph("Unsqueeze", lengths, graph.constant([1])), to=TensorProto.FLOAT)
    return graph("Div", total, graph("Max", lengths, graph.constant(1.0)))


def _embedded(graph: Graph, embeddings: Any, ids: str, count: str) -> str:
    """The embeddings of ids: (texts, tokens) to (texts, tokens, hidden)."""
    zero, one = graph.constant([0]), graph.constant([1])
    position = graph("Slice", graph.weight(embeddings.position_embeddings.weight), zero, count)
    kind = graph("Slice", graph.weight(embeddings.token_type_embeddings.weight), zero, one)
    words = graph.rows(embeddings.word_embeddings.weight, ids)
    return graph.norm(graph("Add", graph("Add", words, kind), position), embeddings.LayerNorm)


def _layer(graph: Graph, layer: Any, asking: str, hidden: str, lengths: str, sizes: Any) -> str:
    """A transformer layer, whose queries are `asking`: `hidden` or its first tokens."""
    attention = layer.attention.self
    projections = [attention.query, attention.key, attention.value]
    products = [
        graph.product(inputs, each.weight)
        for inputs, each in zip((asking, hidden, hidden), projections, strict=True)
    ]
    bias = graph("Concat", *(graph.weight(each.bias) for each in projections), axis=0)
    mixed = graph(
        "MultiHeadAttention", *products, bias, lengths, num_heads=sizes.num_attention_heads
    )
    output = layer.attention.output
    mixed = graph.product(mixed, output.dense.weight)
    bias = graph.weight(output.dense.bias)
    middle = graph.norm_of_sum(mixed, asking, output.LayerNorm, bias)
    up, down = layer.intermediate.dense, layer.output.dense
    return graph.feed_forward(middle, up, down, layer.output.LayerNorm)


def _states(
    graph: Graph, config: Any, side: str, hidden: str, lengths: str, count: str, alone: bool
) -> str:
    """The kept hidden states, (texts, kept, hidden), zero beyond the end of a text."""
    kept = config.kept(side)
    lengths = graph("Cast", graph("Unsqueeze", lengths, graph.constant([1])), to=TensorProto.INT64)
    if alone:
        return _masked(graph, hidden, _span(graph, graph.constant(kept)), lengths)
    every = _span(graph, graph("Squeeze", count, graph.constant([0])))
    hidden = _masked(graph, hidden, every, lengths)
    if config.keep == "first" or (kept == 1 and config.keep == "spans"):
        states = _leading(graph, hidden, kept)
    elif config.keep == "spans":
        means = _means(graph, hidden, lengths, count, kept - 1)
        states = graph("Concat", _leading(graph, hidden, 1), means, axis=1)
    else:
        begin = graph("Max", graph("Sub", lengths, graph.constant(kept)), graph.constant(0))
        places = graph("Add", begin, _span(graph, graph.constant(kept)))
        inside = graph("Unsqueeze", graph("Min", places, graph("Sub", count, graph.constant(1))),
                       graph.constant([2]))  # fmt: skip
        states = graph("GatherND", hidden, inside, batch_dims=1)
        states = _masked(graph, states, places, lengths)
    if config.pooling == "mean":
        whole = graph("Squeeze", lengths, graph.constant([1]))
        mean = graph("Unsqueeze", _mean(graph, hidden, whole), graph.constant([1]))
        others = graph("Slice", states, graph.constant([1]), graph.constant([kept]),
                       graph.constant([1]))  # fmt: skip
        states = graph("Concat", mean, others, axis=1)
    return states


def _means(graph: Graph, hidden: str, lengths: str, count: str, spans: int) -> str:
    """The means of even spans of the tokens after the first, as in `models.truncation`."""
    one = graph.constant(1)
    rest = graph("Slice", hidden, graph.constant([1]), count, graph.constant([1]))
    after = graph("Sub", lengths, one)  # (texts, 1)
    room = graph("Sub", graph("Squeeze", count, graph.constant([0])), one)
    place = _span(graph, room)
    share = graph("Max", after, graph.constant(spans))
    span = graph("Div", graph("Mul", place, graph.constant(spans)), share)  # (texts, tokens)
    numbers = graph("Unsqueeze", _span(graph, graph.constant(spans)), graph.constant([1]))
    belongs = graph("Equal", graph("Unsqueeze", span, graph.constant([1])), numbers)
    inside = graph("Unsqueeze", graph("Less", place, after), graph.constant([1]))
    weights = graph("Cast", graph("And", belongs, inside), to=TensorProto.FLOAT)
    totals = graph("ReduceSum", weights, graph.constant([2]), keepdims=1)
    return graph("Div", graph("MatMul", weights, rest), graph("Max", totals, graph.constant(1.0)))


def _leading(graph: Graph, hidden: str, count: int) -> str:
    """The first tokens of each text."""
    bounds = (graph.constant([each]) for each in (0, count, 1))
    return graph("Slice", hidden, *bounds)


def _span(graph: Graph, count: str) -> str:
    """The numbers 0, 1, ... count - 1."""
    return graph("Range", graph.constant(0), count, graph.constant(1))


def _masked(graph: Graph, hidden: str, places: str, lengths: str) -> str:
    """Hidden states, zero at positions beyond the end of the text."""
    inside = graph("Cast", graph("Less", places, lengths), to=TensorProto.FLOAT)
    return graph("Mul", hidden, graph("Unsqueeze", inside, graph.constant([2])))
