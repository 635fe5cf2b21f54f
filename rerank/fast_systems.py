"""The heads of all systems for `HeadScorer`: results that depend on one side are computed once."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dipair_index.encoders.base import refuse_tuples
from dipair_index.models.aligned_head import AlignedHead
from dipair_index.models.config import Side
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.heads import DenseHead, DistilledSentenceHead, SimilarityHead
from dipair_index.models.prettr import JointLayersHead
from dipair_index.models.transformer_head import TransformerHead
from dipair_index.rerank.fast_aligned import FastAligned
from dipair_index.rerank.fast_head import FastHead, ServedOutput
from dipair_index.rerank.fast_prettr import FastJointLayers


class FastSystem(Protocol):
    """A copy of a head, rearranged for scoring; later training of the head has no effect."""

    def prepare(self, side: Side, tokens: Tensor) -> Any:
        """Computes what depends on one side only, from float32 tokens (texts, tokens, dim)."""

    def score(self, query: Any, passages: Any) -> Tensor:
        """Returns the logits (passages,) in float32; a single query is paired with all passages."""


def fast_system(model: DiPairModel, dtype: torch.dtype = torch.float32) -> FastSystem:
    """Returns the head of a model of two sides, with logits within 1e-4 of its own in float32.

    Several classes are scored by `served_logits`. With `dtype=torch.bfloat16`, products with
    weights are in bfloat16. Raises `SettingsError` if the model has more than two sides.
    """
    refuse_tuples(model.config.sides)
    config, head = model.config, model.head
    dim = config.token_dim
    if isinstance(head, SimilarityHead):
        return FastSimilarity(head)
    if isinstance(head, DistilledSentenceHead):
        return FastSentences(head, [dim, dim, 2 * dim], dtype)
    if isinstance(head, AlignedHead):
        return FastAligned(head, dtype)
    if isinstance(head, JointLayersHead):
        return FastJointLayers(head, dtype)
    if isinstance(head, DenseHead):
        return FastDense(head, [config.kept(side) * dim for side in config.sides], dtype)
    return FastHead(cast("TransformerHead", head), config.max_query_tokens, dtype)


class FirstLayer(NamedTuple):
    """The contribution of one side to the first dense layer."""

    compared: Tensor  # (texts, first or all tokens, dim): for the residual
    first: Tensor  # (texts, dim): the first token
    projected: Tensor  # (texts, width)


class FastDense:
    """ffnn and de-ffnn: W [u; v] = W_u u + W_v v, so each side's product is computed once."""

    def __init__(self, head: DenseHead, widths: list[int], dtype: torch.dtype) -> None:
        """`widths` are the input widths of the first layer: for a query, a passage, and a pair."""
        layers = deepcopy(head.layers).to(dtype).requires_grad_(False)
        first, *self._layers = cast("list[nn.Linear]", list(layers))
        self._dtype = dtype
        self._bias = first.bias
        query, passage, *self._of_pairs = first.weight.split(widths, dim=1)
        self._weights: dict[Side, Tensor] = {"query": query, "passage": passage}
        self._output = ServedOutput(head)

    def prepare(self, side: Side, tokens: Tensor) -> FirstLayer:
        """Returns the first token and the side's product in the first layer."""
        projected = functional.linear(
            tokens.flatten(1).to(self._dtype),
            self._weights[side],
            self._bias if side == "query" else None,
        )
        return FirstLayer(self._output.compared(tokens), tokens[:, 0], projected)

    def score(self, query: FirstLayer, passages: FirstLayer) -> Tensor:
        """Computes the remaining layers; returns logits (passages,)."""
        hidden = functional.relu(self._met(query, passages))
        for layer in self._layers:
            hidden = functional.relu(layer(hidden))
        return self._output(hidden, query.compared, passages.compared)

    def _met(self, query: FirstLayer, passages: FirstLayer) -> Tensor:
        """Returns the first layer's product before its activation, (pairs, width)."""
        return query.projected + passages.projected


class FastSentences(FastDense):
    """dse: products with u and v are computed once, those with u * v and |u - v| for each pair."""

    def _met(self, query: FirstLayer, passages: FirstLayer) -> Tensor:
        u, v = query.first, passages.first
        both = torch.cat([u * v, (u - v).abs()], dim=1).to(self._dtype)
        return super()._met(query, passages) + functional.linear(both, *self._of_pairs)


class Lengths(NamedTuple):
    """Tokens and their lengths, by whose product an inner product is divided."""

    tokens: Tensor  # (texts, tokens, dim), or (tokens, dim) of a query alone
    lengths: Tensor  # (texts, tokens)


class FastSimilarity:
    """de-cos, poly and maxsim: inner products are divided by the lengths of the tokens.

    All of it is in float32, since bfloat16 would save little.
    """

    def __init__(self, head: SimilarityHead) -> None:
        self._head = deepcopy(head).requires_grad_(False)

    def prepare(self, side: Side, tokens: Tensor) -> Lengths:
        """Computes the lengths of the tokens."""
        lengths = torch.linalg.vector_norm(tokens, dim=-1)
        # a single query is one matrix, for one product instead of one per pair
        alone = side == "query" and len(tokens) == 1
        return Lengths(tokens[0] if alone else tokens, lengths)

    def score(self, query: Lengths, passages: Lengths) -> Tensor:
        """Returns the scaled similarities, (passages,)."""
        products = passages.tokens @ query.tokens.mT  # (pairs, M, N)
        lengths = passages.lengths.unsqueeze(-1) * query.lengths.unsqueeze(-2)
        cosines = products / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)
        return self._head.scaled(cosines, query.lengths > 0, passages.lengths > 0)
