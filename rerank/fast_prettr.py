"""PreTTR's joint layers, rearranged as in `fast_head`: the same logits with fewer operations.

cached tokens ─► expansion ─► first projection      (once per query, and once per passage)
both texts, without absent tokens ─► layers ─► last layer, first token ─► logits
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from dipair_index.models.config import Side
from dipair_index.models.prettr import JointLayersHead, without_absent
from dipair_index.rerank.fast_head import (
    LastLayer,
    Layer,
    Product,
    ProductForm,
    ServedOutput,
    has_onednn,
)


class PreparedTokens(NamedTuple):
    """The results of the joint layers that depend on one side alone, one row per text.

    The tokens are as many as those of the longest text.
    """

    compared: Tensor  # (texts, first or all tokens, dim): for the residual
    present: Tensor  # (texts, tokens)
    hidden: Tensor  # (texts, tokens, width)
    projected: Tensor  # (texts, tokens, some width): for the attention of the first layer


class FastJointLayers:
    """A copy of a `JointLayersHead`; later training of `head` has no effect.

    In float32, its logits are within 1e-4 of those of `head`. With `dtype=torch.bfloat16`, products
    and the hidden states between them are in bfloat16.
    """

    def __init__(self, head: JointLayersHead, dtype: torch.dtype = torch.float32) -> None:
        form = ProductForm(dtype, head.segment.is_cpu and has_onednn(dtype))
        self._dtype = dtype
        self._segment = head.segment.detach().clone()
        self._expansions = [
            Product(each.weight.detach(), segment, form)
            for each, segment in zip(head.expansion_layers, self._segment, strict=False)
        ]
        *layers, last = cast("list[nn.TransformerEncoderLayer]", list(head.layers))
        self._layers = [Layer(layer, form) for layer in layers]
        self._last = LastLayer(last, form)
        self._output = ServedOutput(head)

    def prepare(self, side: Side, tokens: Tensor) -> PreparedTokens:
        """Computes what depends on one side only, from float32 tokens (texts, tokens, dim)."""
        number = 0 if side == "query" else 1
        tokens = without_absent(tokens)
        present = tokens.any(-1)
        if side == "query":
            present[:, 0] = True
        if self._expansions:
            hidden = self._expansions[number](tokens.to(self._dtype))
        else:
            hidden = (tokens + self._segment[number]).to(self._dtype)
        projected = self._layers[0].project(hidden) if self._layers else hidden[..., :0]
        return PreparedTokens(self._output.compared(tokens), present, hidden, projected)

    def score(self, query: PreparedTokens, passages: PreparedTokens) -> Tensor:
        """Returns the logits (passages,) in float32; a single query is paired with all passages."""
        pairs = len(passages.hidden)
        hidden, projected = (
            torch.cat([one.expand(pairs, -1, -1), other], dim=1)
            for one, other in zip(query[2:], passages[2:], strict=True)
        )
        present = torch.cat([query.present.expand(pairs, -1), passages.present], dim=1)
        mask = present[:, None, None]  # (pairs, 1, 1, tokens)
        for depth, layer in enumerate(self._layers):
            hidden = layer(hidden, layer.project(hidden) if depth else projected, mask)
        return self._output(self._last(hidden, mask), query.compared, passages.compared)
