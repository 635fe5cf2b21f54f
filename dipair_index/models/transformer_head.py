"""DiPair's transformer head, and what it shares with the other heads.

    tokens of each side, (pairs, kept, dim) ─► transformer layers ─► first token ─► logits (pairs,)

Source: Chen et al., "DiPair: Fast and Accurate Distillation for Trillion-Scale Text Matching and
Pair Modeling", Findings of EMNLP 2020, section 3.5.

Deviation from the paper: `similarity_residual` adds a scaled similarity to the logit, and the last
layer begins at zero, so that training begins at the encoder's own ranking. "cosine" is that of the
first tokens, "maxsim" the mean over the query's tokens of the largest cosine with the other text's;
with several sides it is the mean over them. With several classes it is added k times to that of
grade k. "none" is the paper's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from dipair_index.models.config import DiPairConfig

FIRST_SCALE, FIRST_BIAS = 20.0, -10.0
"""Where a similarity begins: the mean of a teacher's logits is near zero, where that of a cosine
is about a half."""


class TupleHead(nn.Module, ABC):
    """Scores tuples of texts, from the tokens of each side."""

    @abstractmethod
    def forward(self, *tokens: Tensor) -> Tensor:
        """(pairs, kept, dim) of each side to logits (pairs,), or (pairs, classes)."""

    def initialise(self) -> None:
        """Sets the parameters that no module of its own holds, as a new model has them."""


class ClassHead(TupleHead):
    """A head that ends in a linear layer, with an output a class."""

    def __init__(self, config: DiPairConfig, width: int) -> None:
        super().__init__()
        self.output = nn.Linear(width, config.classes)
        self.similarity_residual = config.similarity_residual
        if self.has_residual:
            self.similarity_scale = nn.Parameter(torch.tensor([FIRST_SCALE]))

    @property
    def has_residual(self) -> bool:
        """Whether a similarity is added."""
        return self.similarity_residual != "none"

    def initialise(self) -> None:
        """Begins at the similarity, where there is one."""
        if self.has_residual:
            self.similarity_scale.fill_(FIRST_SCALE)
            self.output.weight.zero_()
            self.output.bias.copy_(FIRST_BIAS * self.grades())

    def _logits(self, read: Tensor, tokens: tuple[Tensor, ...]) -> Tensor:
        """(pairs, width), and the tokens for the residual, to logits."""
        logits: Tensor = self.output(read)
        if self.has_residual:
            query, *others = map(self.compared, tokens)
            similarity = torch.stack([largest_cosines(query, each) for each in others]).mean(0)
            logits = logits + (self.similarity_scale * similarity).unsqueeze(-1) * self.grades()
        return logits.squeeze(-1) if logits.shape[-1] == 1 else logits

    def compared(self, tokens: Tensor) -> Tensor:
        """The tokens that the residual compares, at length one: (pairs, first or all, dim)."""
        chosen = tokens[:, :1] if self.similarity_residual == "cosine" else tokens
        return functional.normalize(chosen, dim=-1)

    def grades(self) -> Tensor:
        """How often the residual is added to the logit of each class; once where there is one."""
        bias = self.output.bias
        return torch.arange(len(bias), device=bias.device) if len(bias) > 1 else bias.new_ones(1)


class TransformerHead(ClassHead):
    """tsf, DiPair's transformer head (section 3.5): a BERT over the tokens of all sides.

    Its first output token represents the tuple. Positions and segments are added as in BERT.
    """

    def __init__(self, config: DiPairConfig) -> None:
        dim = config.token_dim
        super().__init__(config, dim)
        self.position = nn.Parameter(torch.zeros(sum(map(config.kept, config.sides)), dim))
        self.segment = nn.Parameter(torch.zeros(len(config.sides), dim))
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim,
                config.head_attention_heads,
                config.head_intermediate,
                config.head_dropout,
                activation="gelu",
                layer_norm_eps=1e-12,
                batch_first=True,
            )
            for _ in range(config.head_layers)
        )

    def initialise(self) -> None:
        """As BERT's own embeddings."""
        super().initialise()
        self.position.normal_(std=0.02)
        self.segment.normal_(std=0.02)

    def forward(self, *tokens: Tensor) -> Tensor:
        """(pairs, kept, dim) of each side to logits (pairs,), or (pairs, classes)."""
        segments = [one.expand_as(side[0]) for one, side in zip(self.segment, tokens, strict=True)]
        hidden = torch.cat(tokens, dim=1)  # (pairs, all kept tokens, dim)
        hidden = self.norm(hidden + self.position + torch.cat(segments))
        for layer in self.layers:
            hidden = layer(hidden)
        return self._logits(hidden[:, 0], tokens)


def largest_cosines(query: Tensor, passage: Tensor) -> Tensor:
    """(pairs or 1, N, dim) and (pairs, M, dim), at length one or zero, to the residual (pairs,)."""
    return (passage @ query.mT).amax(1).mean(-1)
