"""DiPair's transformer head, rearranged: the same logits with fewer operations.

    query tokens   ─► norm ─► first projection ─┐ once per query
                                                ├─► layers ─► last layer, first token ─► logits
    passage tokens ─► norm ─► first projection ─┘ once per passage

One attention head on hidden states H has the weights W_Q, W_K, W_V, W_O and the biases b_Q, b_K,
b_V, b_O. With q = h W_Q + b_Q for a token h, K = H W_K + b_K and V = H W_V + b_V, it computes
softmax(q Kᵀ / √d) V W_O + b_O. Up to rounding, it is the same as

    softmax(r Hᵀ) H (W_V W_O) + (b_V W_O + b_O)    with  r = h (W_Q W_Kᵀ / √d) + b_Q W_Kᵀ / √d

for the following reasons:

- q Kᵀ = (q W_Kᵀ) Hᵀ + q b_K, and softmax(x + c) = softmax(x) for a constant c such as q b_K.
- The weights a = softmax(...) sum to one, so a V W_O = (a H) (W_V W_O) + b_V W_O.
- W_Q W_Kᵀ and W_V W_O are constant, so they are multiplied once: with one attention head, two
  products replace four. With several heads, layers before the last keep W_Q, W_K, W_V and W_O
  apart, but still without b_K, and with b_V moved into the output's bias.
- The logit reads only the first token of the last layer, so that layer computes no other token.
"""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dipair_index.models.config import Side
from dipair_index.models.heads import served_logits
from dipair_index.models.transformer_head import ClassHead, TransformerHead


class Prepared(NamedTuple):
    """The results of the head that depend on one side alone, one row per text."""

    compared: Tensor  # (texts, first or all tokens, dim): for the residual
    hidden: Tensor  # (texts, tokens, dim)
    projected: Tensor  # (texts, tokens, width): for the attention of the first layer


class FastHead:
    """A copy of a transformer head, rearranged for scoring; later training of `head` has no effect.

    In float32, its logits are within 1e-4 of those of `head`. With `dtype=torch.bfloat16`, products
    and the hidden states between them are in bfloat16.
    """

    def __init__(
        self,
        head: TransformerHead,
        query_tokens: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        form = ProductForm(dtype, head.position.is_cpu and has_onednn(dtype))
        self._dtype = dtype
        position = head.position.detach()
        self._places: dict[Side, Tensor] = {
            "query": position[:query_tokens] + head.segment.detach()[0],
            "passage": position[query_tokens:] + head.segment.detach()[1],
        }
        self._norm = copied(head.norm, dtype)
        *layers, last = cast("list[nn.TransformerEncoderLayer]", list(head.layers))
        self._layers = [Layer(layer, form) for layer in layers]
        self._last = LastLayer(last, form)
        self._output = ServedOutput(head)

    def prepare(self, side: Side, tokens: Tensor) -> Prepared:
        """Computes what depends on one side only, from float32 tokens (texts, tokens, dim)."""
        hidden = self._norm((tokens + self._places[side]).to(self._dtype))
        projected = self._layers[0].project(hidden) if self._layers else hidden[..., :0]
        return Prepared(self._output.compared(tokens), hidden, projected)

    def score(self, query: Prepared, passages: Prepared) -> Tensor:
        """Returns the logits (passages,) in float32; a single query is paired with all passages."""
        pairs = len(passages.hidden)
        hidden, projected = (
            torch.cat([one.expand(pairs, -1, -1), other], dim=1)
            for one, other in zip(query[1:], passages[1:], strict=True)
        )
        for depth, layer in enumerate(self._layers):
            hidden = layer(hidden, layer.project(hidden) if depth else projected)
        return self._output(self._last(hidden), query.compared, passages.compared)


class ServedOutput:
    """The output layer of a head, with its residual, in float32: one logit per pair."""

    def __init__(self, head: ClassHead) -> None:
        self._output = copied(head.output, torch.float32)
        self._has_classes = head.output.out_features > 1
        self._similarity_scale: Tensor | None = None
        self.compared, self._similarity = head.compared, head.similarity
        if head.has_residual:
            scale = head.similarity_scale.detach().clone().float()
            self._similarity_scale = scale * head.grades()

    def __call__(self, read: Tensor, query: Tensor, passages: Tensor) -> Tensor:
        """Returns logits (pairs,) from `read`, (pairs, width), and both sides' compared tokens."""
        logits: Tensor = self._output(read.float())
        if self._similarity_scale is not None:
            similarity = self._similarity(query, passages)
            logits = logits + similarity.unsqueeze(-1) * self._similarity_scale
        return served_logits(logits) if self._has_classes else logits.squeeze(-1)


class ProductForm(NamedTuple):
    """How the products of a head are computed: their type, and whether oneDNN fuses them."""

    dtype: torch.dtype
    fused: bool


def has_onednn(dtype: torch.dtype) -> bool:
    """Returns whether torch has oneDNN's fused products, which are not part of its public API."""
    if not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def copied(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Returns a copy of a module in another type, which is not trained."""
    return deepcopy(module).to(dtype).requires_grad_(False)


class Product:
    """rows @ weight.T + bias, followed by GELU or by the addition of other rows.

    If `form.fused`, it is one oneDNN operation, for which the weight is reordered once.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, form: ProductForm, *, gelu: bool = False
    ) -> None:
        self._weight, self._bias = (part.to(form.dtype, copy=True) for part in (weight, bias))
        self._gelu, self._fused = gelu, form.fused
        if self._fused:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, None)

    def __call__(self, rows: Tensor, plus: Tensor | None = None) -> Tensor:
        """Returns (..., out) from rows (..., in); `plus`, of the result's shape, is added."""
        result: Tensor
        if not self._fused:
            result = functional.linear(rows, self._weight, self._bias)
            if self._gelu:
                result = functional.gelu(result)
            return result if plus is None else result + plus
        fused, operands = torch.ops.mkldnn._linear_pointwise, (self._weight, self._bias)
        if plus is not None:
            result = fused.binary(rows, plus, *operands, "add")
        elif self._gelu:
            result = fused(rows, *operands, "gelu", [], "none")
        else:
            result = fused(rows, *operands, "none", [], "")
        return result


class Layer:
    """A transformer layer that computes all tokens."""

    def __init__(self, layer: nn.TransformerEncoderLayer, form: ProductForm) -> None:
        query, key, value, output = _attention(layer)
        self._heads = len(query.weight)
        if self._heads == 1:
            merged = torch.cat([key.weight[0].T @ query.weight[0], output.weight @ value.weight[0]])
            bias = torch.cat([query.bias[0] @ key.weight[0], output.bias])
            self._join = None
        else:
            merged = torch.cat([part.weight.flatten(0, 1) for part in (query, key, value)])
            bias = torch.cat([query.bias.flatten(), query.bias.new_zeros(2 * len(output.bias))])
            self._join = Product(output.weight, output.bias, form)
        self.project = Product(merged, bias, form)
        self._feed_forward = _FeedForward(layer, form)

    def __call__(self, hidden: Tensor, projected: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns (pairs, tokens, dim) from `hidden`, of this shape, and its `project`.

        `mask`, (pairs, 1, 1, tokens), is False for tokens to which none attends.
        """
        parts = projected.chunk(2 if self._join is None else 3, dim=-1)
        if self._join is None:
            parts = (parts[0], hidden, parts[1])
        # (pairs, heads, tokens, dim / heads) each
        queries, keys, values = (
            part.unflatten(-1, (self._heads, -1)).transpose(1, 2) for part in parts
        )
        mixed = functional.scaled_dot_product_attention(queries, keys, values, mask, scale=1.0)
        mixed = mixed.transpose(1, 2).flatten(2)
        return self._feed_forward(
            hidden + mixed if self._join is None else self._join(mixed, hidden)
        )


class LastLayer:
    """A transformer layer that computes the first token only."""

    def __init__(self, layer: nn.TransformerEncoderLayer, form: ProductForm) -> None:
        query, key, value, output = _attention(layer)
        self._heads, size, dim = query.weight.shape
        # W_Q W_Kᵀ of each attention head, transposed: (heads, dim, dim)
        asked = key.weight.mT @ query.weight
        bias = (query.bias.unsqueeze(1) @ key.weight).flatten()
        self._query = Product(asked.flatten(0, 1), bias, form)
        shares = output.weight.view(dim, self._heads, size).transpose(0, 1)  # (heads, dim, size)
        joined = (shares @ value.weight).transpose(0, 1).flatten(1)  # (dim, heads * dim)
        self._join = Product(joined, output.bias, form)
        self._feed_forward = _FeedForward(layer, form)

    def __call__(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns (pairs, dim) from hidden states (pairs, tokens, dim); `mask` as in `Layer`."""
        first = hidden[:, 0]
        asked = self._query(first).unflatten(-1, (self._heads, 1, -1))  # (pairs, heads, 1, dim)
        states = hidden.unsqueeze(1).expand(-1, self._heads, -1, -1)
        mixed = functional.scaled_dot_product_attention(asked, states, states, mask, scale=1.0)
        return self._feed_forward(self._join(mixed.flatten(1), first))


class _FeedForward:
    """The layer norms and the feed-forward network after the attention of a layer."""

    def __init__(self, layer: nn.TransformerEncoderLayer, form: ProductForm) -> None:
        up, down = layer.linear1, layer.linear2
        self._before, self._after = (copied(n, form.dtype) for n in (layer.norm1, layer.norm2))
        self._up = Product(up.weight.detach(), up.bias.detach(), form, gelu=True)
        self._down = Product(down.weight.detach(), down.bias.detach(), form)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Returns (..., dim) from hidden states (..., dim)."""
        hidden = self._before(hidden)
        result: Tensor = self._after(self._down(self._up(hidden), hidden))
        return result


class _Linear(NamedTuple):
    """Weights in float64, in which they are merged: (heads, size, dim), or (dim, dim)."""

    weight: Tensor
    bias: Tensor


def _attention(layer: nn.TransformerEncoderLayer) -> tuple[_Linear, _Linear, _Linear, _Linear]:
    """Returns query, key, value and output of a layer's attention.

    The query contains the scale 1 / √size, and the output's bias contains that of the value.
    """
    attention = layer.self_attn
    heads, size = attention.num_heads, attention.head_dim
    query, key, value = (
        _Linear(weight.unflatten(0, (heads, size)), bias.view(heads, size))
        for weight, bias in zip(
            attention.in_proj_weight.detach().double().chunk(3),
            attention.in_proj_bias.detach().double().chunk(3),
            strict=True,
        )
    )
    weight = attention.out_proj.weight.detach().double()
    bias = attention.out_proj.bias.detach().double() + weight @ value.bias.flatten()
    return (
        _Linear(query.weight / size**0.5, query.bias / size**0.5),
        key,
        value,
        _Linear(weight, bias),
    )
