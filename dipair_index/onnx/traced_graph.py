"""Any encoder as nodes of an ONNX graph, traced by torch, on the model's own weights."""

from __future__ import annotations

import io
import warnings

import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from dipair_index.errors import ModelError
from dipair_index.models.pretrained import readable_tokens
from dipair_index.onnx.writer import Graph
from dipair_index.words import reason

NAMES = ("ids", "mask", "hidden")


class _HiddenStates(nn.Module):
    """An encoder of which only the hidden states are asked for."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden: Tensor = self.encoder(input_ids=ids, attention_mask=mask)[0]
        return hidden


def traced_hidden(graph: Graph, encoder: nn.Module, ids: str, lengths: str, count: str) -> str:
    """Adds a traced encoder: ids (texts, tokens) to hidden states (texts, tokens, hidden).

    `lengths` are those of the texts and `count` is the number of columns. The tracer runs the
    encoder once, so what it computes for other shapes is still to be compared with torch. Raises
    `ModelError` if the encoder cannot be traced.
    """
    places = graph("Range", graph.constant(0), graph("Squeeze", count), graph.constant(1))
    lengths = graph("Cast", graph("Unsqueeze", lengths, graph.constant([1])), to=TensorProto.INT64)
    mask = graph("Cast", graph("Less", places, lengths), to=TensorProto.INT64)
    wrapped = _HiddenStates(encoder).eval()
    weights = dict(wrapped.named_parameters())
    return graph.inline(_traced(wrapped), {"ids": ids, "mask": mask}, weights)


def _traced(wrapped: _HiddenStates) -> onnx.GraphProto:
    """The graph of an encoder; its inputs are `ids`, `mask` and the weights by their names."""
    device = next(wrapped.parameters()).device
    length = min(5, readable_tokens(wrapped.encoder) or 5)
    ids = torch.arange(2 * length, device=device).reshape(2, length)
    mask = torch.ones_like(ids)
    mask[1, length // 2 + 1 :] = 0  # with a mask of ones alone, some encoders trace none
    written = io.BytesIO()
    axes = {name: {0: "texts", 1: "tokens"} for name in NAMES}
    # torch and transformers raise errors of many types for operations that ONNX lacks
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shapes, which the samples of the export check
            # The older exporter: the newer one needs a package more. Weights stay outside, so that
            # an encoder may have more than the 2 GB of one ONNX file.
            torch.onnx.export(
                wrapped, (ids, mask),
                written,  # type: ignore[arg-type]  # an open file will do, other than it is declared
                dynamo=False, opset_version=17,
                input_names=list(NAMES[:2]), output_names=[NAMES[2]], dynamic_axes=axes,
                export_params=False, do_constant_folding=False,
            )  # fmt: skip
    except Exception as error:
        kind = getattr(wrapped.encoder.config, "model_type", "such")
        raise ModelError(
            f"torch cannot trace {kind} encoders ({reason(error)}): use --backend torch"
        ) from error
    return onnx.load_from_string(written.getvalue()).graph
