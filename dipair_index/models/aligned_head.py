"""The aligned head: each query token beside the passage token that is most similar to it.

    query (pairs, N, dim), passage (pairs, M, dim) ─► similarities (pairs, N, M)
      ─► of each query token: itself, the best passage token, their product, similarities
      ─► transformer layers over the N query tokens ─► MaxSim + correction = logit (pairs,)

It is no part of the papers. The paper's head (DiPair, section 3.5) has to learn from its labels
which token of the query belongs to which token of the passage, and needs tens of millions of pairs
for it. Here MaxSim (Khattab and Zaharia, "ColBERT", SIGIR 2020, section 3.3) aligns the tokens, and
the layers learn what the alignment is worth. Training starts from MaxSim itself, since the output
starts at zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dipair_index.models.config import DiPairConfig
from dipair_index.models.transformer_head import (
    FIRST_BIAS,
    FIRST_SCALE,
    LOWEST,
    TupleHead,
    bert_layers,
)

ABSENT = -1.0
"""The similarity with an absent token, and the least that counts."""


class Alignment(NamedTuple):
    """What a query's N tokens meet in a passage."""

    met: Tensor  # (pairs, N, dim): the most similar passage token
    similarities: Tensor  # (pairs, N, 3): the largest, the second, and the mean


class AlignedHead(TupleHead):
    """aligned: MaxSim, and a correction by transformer layers over the aligned tokens.

    The tokens are those of `keep="clusters"`: a query's of unit length, a passage's without their
    centre. A token of zeros is absent: it is neither compared nor attended to.
    """

    def __init__(self, config: DiPairConfig) -> None:
        super().__init__()
        dim = config.token_dim
        # a coordinate of a unit token is about 1 / unit; layers train better on numbers about 1
        self.unit = dim**0.5
        self.similarity_scale = nn.Parameter(torch.tensor([FIRST_SCALE]))
        self.bias = nn.Parameter(torch.tensor([FIRST_BIAS]))
        # a query token's similarity with the centre, which was taken off the passage's tokens
        self.centre = nn.Parameter(torch.zeros(dim))
        self.product = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.passage = nn.Linear(dim, dim, bias=False)
        self.similarities = nn.Linear(3, dim, bias=False)
        self.position = nn.Parameter(torch.zeros(config.max_query_tokens, dim))
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.layers = bert_layers(
            config, dim, config.head_attention_heads, config.head_intermediate, eps=1e-12
        )
        # of each query token: an addition to the logit, and to the weight of its similarity
        self.output = nn.Linear(dim, 2)

    def initialise(self) -> None:
        """Sets the initial parameters, with which the logit is a scaled MaxSim."""
        self.similarity_scale.fill_(FIRST_SCALE)
        self.bias.fill_(FIRST_BIAS)
        self.centre.zero_()
        self.position.normal_(std=0.02)
        self.output.weight.zero_()
        self.output.bias.zero_()

    def forward(self, *tokens: Tensor) -> Tensor:
        """Returns logits, (pairs,), of tokens (pairs, N, dim) and (pairs, M, dim)."""
        query, passage = tokens
        asked = query.any(-1)
        aligned = align(query, passage)
        hidden = self.norm(self.query_part(query) + self.pair_part(query, aligned))
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=~asked)
        return self.logits(hidden, aligned, query @ self.centre, asked)

    def similarity_part(self, *tokens: Tensor) -> Tensor:
        """Returns the scaled MaxSim and the bias, (pairs,)."""
        query, passage = tokens
        asked = query.any(-1)
        similar = align(query, passage).similarities[..., 0] + query @ self.centre
        return self._mean(self.similarity_scale * similar, asked)

    def query_part(self, query: Tensor) -> Tensor:
        """Returns the query's part of the first hidden states, (..., N, dim)."""
        own: Tensor = self.query(self.unit * query)
        return own + self.position[: query.shape[-2]]

    def pair_part(self, query: Tensor, aligned: Alignment) -> Tensor:
        """Returns the other part of the first hidden states, (pairs, N, dim)."""
        met = self.unit * aligned.met
        similar: Tensor = self.similarities(self.unit * aligned.similarities)
        joint: Tensor = self.product(self.unit * query * met) + self.passage(met)
        return joint + similar

    def logits(self, hidden: Tensor, aligned: Alignment, common: Tensor, asked: Tensor) -> Tensor:
        """Returns logits, (pairs,), of the last hidden states, (pairs, N, dim).

        `common` are the similarities of the query's tokens with the centre, and `asked` is False
        for absent tokens, both (pairs or 1, N).
        """
        added, weight = self.output(hidden).unbind(-1)  # (pairs, N) each
        best = aligned.similarities[..., 0]
        each: Tensor = self.similarity_scale * (best + common) + added + self.unit * weight * best
        return self._mean(each, asked)

    def _mean(self, each: Tensor, asked: Tensor) -> Tensor:
        """Returns the mean over a query's tokens, (pairs,), with the bias."""
        return each.masked_fill(~asked, 0).sum(-1) / asked.sum(-1).clamp(min=1) + self.bias


def align(query: Tensor, passage: Tensor) -> Alignment:
    """Aligns the tokens of a query, (pairs, N, dim), with those of a passage, (pairs, M, dim)."""
    present = passage.any(-1)[:, None]  # (pairs, 1, M)
    products = query @ passage.mT
    largest, index = products.masked_fill(~present, LOWEST).topk(2, dim=-1)
    mean = (products * present).sum(-1) / present.sum(-1).clamp(min=1)
    met = passage.gather(1, index[..., :1].expand(-1, -1, passage.shape[-1]))
    return Alignment(met, torch.cat([largest.clamp(min=ABSENT), mean.unsqueeze(-1)], dim=-1))
