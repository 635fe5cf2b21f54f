"""DiPair's transformer head, and the base classes of all heads.

    tokens of each side, (pairs, kept, dim) ─► transformer layers ─► first token ─► logits (pairs,)

Source: Chen et al., "DiPair: Fast and Accurate Distillation for Trillion-Scale Text Matching and
Pair Modeling", Findings of EMNLP 2020, section 3.5.

Deviation from the paper: `similarity_residual` adds a scaled similarity to the logit, and the last
layer starts at zero, so that training starts from the encoder's own ranking. "cosine" is the cosine
of the first tokens; "maxsim" is the mean over the query's tokens of the largest cosine with a token
of the other text. With several other sides, the similarity is the mean over them. With several
classes, the logit of grade k gets k times the similarity. "none" is the paper's head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from dipair_index.models.config import DiPairConfig

FIRST_SCALE, FIRST_BIAS = 20.0, -10.0
"""The initial scale and bias of a similarity, by which a cosine of 0.5, about the mean, becomes a
logit of 0, about the mean of a teacher's."""

LOWEST = -1e4
"""The logit of a masked token: below every scaled cosine, in half precision too."""


class TupleHead(nn.Module, ABC):
    """The base class of heads, which score tuples of texts by the tokens of each side."""

    @abstractmethod
    def forward(self, *tokens: Tensor) -> Tensor:
        """Returns logits, (pairs,) or (pairs, classes), of tokens, (pairs, kept, dim) per side."""

    def initialise(self) -> None:
        """Sets the initial values of the head's own parameters, those outside its submodules."""

    @abstractmethod
    def similarity_part(self, *tokens: Tensor) -> Tensor:
        """Returns the part of `forward`'s logits that is a scaled similarity, with its bias.

        It is all of them before training, and zero for a head that begins at no similarity.
        """


class ClassHead(TupleHead):
    """A head that ends in a linear layer with one output per class."""

    def __init__(self, config: DiPairConfig, width: int) -> None:
        super().__init__()
        self.output = nn.Linear(width, config.classes)
        self.similarity_residual = config.similarity_residual
        if self.has_residual:
            self.similarity_scale = nn.Parameter(torch.tensor([FIRST_SCALE]))

    @property
    def has_residual(self) -> bool:
        """Whether a similarity is added to the logits."""
        return self.similarity_residual != "none"

    def initialise(self) -> None:
        """Sets the initial values; a residual, if there is one, is the whole logit at first."""
        if self.has_residual:
            self.similarity_scale.fill_(FIRST_SCALE)
            self.output.weight.zero_()
            self.output.bias.copy_(FIRST_BIAS * self.grades())

    def _logits(self, read: Tensor, tokens: tuple[Tensor, ...]) -> Tensor:
        """Returns the logits of the last layer's input, (pairs, width), with the residual added."""
        logits: Tensor = self.output(read)
        if self.has_residual:
            logits = logits + self._residual(tokens)
        return logits.squeeze(-1) if logits.shape[-1] == 1 else logits

    def similarity_part(self, *tokens: Tensor) -> Tensor:
        """Returns the residual and the bias, (pairs,) or (pairs, classes); zero without one."""
        bias = self.output.bias
        if self.has_residual:
            part = self._residual(tokens) + bias
        else:
            part = bias.new_zeros(len(tokens[0]), len(bias))
        return part.squeeze(-1) if part.shape[-1] == 1 else part

    def _residual(self, tokens: tuple[Tensor, ...]) -> Tensor:
        """Returns the scaled similarity, (pairs, classes)."""
        query, *others = map(self.compared, tokens)
        similarity = torch.stack([self.similarity(query, each) for each in others]).mean(0)
        scaled: Tensor = (self.similarity_scale * similarity).unsqueeze(-1)
        return scaled * self.grades()

    def compared(self, tokens: Tensor) -> Tensor:
        """Returns the tokens that the residual compares, at unit length.

        "cosine" compares the first, (pairs, 1, dim), and "maxsim" all of them, (pairs, kept, dim).
        """
        chosen = tokens[:, :1] if self.similarity_residual == "cosine" else tokens
        return functional.normalize(chosen, dim=-1)

    @staticmethod
    def similarity(query: Tensor, passage: Tensor) -> Tensor:
        """Returns the similarity, (pairs,), of `compared` tokens; one query may have all pairs."""
        return largest_cosines(query, passage)

    def grades(self) -> Tensor:
        """Returns the factor of the residual in each class's logit, (classes,); 1 for one class."""
        bias = self.output.bias
        return torch.arange(len(bias), device=bias.device) if len(bias) > 1 else bias.new_ones(1)


class TransformerHead(ClassHead):
    """tsf, DiPair's transformer head (section 3.5): BERT layers over the tokens of all sides.

    The first hidden state of the last layer represents the tuple. Position and segment embeddings
    are added as in BERT.
    """

    def __init__(self, config: DiPairConfig) -> None:
        dim = config.token_dim
        super().__init__(config, dim)
        self.position = nn.Parameter(torch.zeros(sum(map(config.kept, config.sides)), dim))
        self.segment = nn.Parameter(torch.zeros(len(config.sides), dim))
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.layers = bert_layers(
            config, dim, config.head_attention_heads, config.head_intermediate, eps=1e-12
        )

    def initialise(self) -> None:
        """Sets the initial position and segment embeddings as in BERT."""
        super().initialise()
        self.position.normal_(std=0.02)
        self.segment.normal_(std=0.02)

    def forward(self, *tokens: Tensor) -> Tensor:
        """Returns logits, (pairs,) or (pairs, classes), of tokens, (pairs, kept, dim) per side."""
        segments = [one.expand_as(side[0]) for one, side in zip(self.segment, tokens, strict=True)]
        hidden = torch.cat(tokens, dim=1)  # (pairs, all kept tokens, dim)
        hidden = self.norm(hidden + self.position + torch.cat(segments))
        for layer in self.layers:
            hidden = layer(hidden)
        return self._logits(hidden[:, 0], tokens)


def bert_layers(
    config: DiPairConfig, width: int, attention_heads: int, intermediate: int, *, eps: float
) -> nn.ModuleList:
    """Returns the `head_layers` layers of a head, which are BERT's; `eps` is of their norms."""
    return nn.ModuleList(
        nn.TransformerEncoderLayer(
            width,
            attention_heads,
            intermediate,
            config.head_dropout,
            activation="gelu",
            layer_norm_eps=eps,
            batch_first=True,
        )
        for _ in range(config.head_layers)
    )


def largest_cosines(query: Tensor, passage: Tensor) -> Tensor:
    """Returns the mean over the query's tokens of the largest cosine, (pairs,).

    `query` is (pairs or 1, N, dim) and `passage` (pairs, M, dim), of unit length or, as padding,
    zero.
    """
    return (passage @ query.mT).amax(1).mean(-1)


def mean_of_largest(cosines: Tensor, in_query: Tensor, in_passage: Tensor) -> Tensor:
    """Returns the mean of the query tokens' largest cosines, (pairs,); 0 if a text has no token.

    `cosines` are (pairs, M, N). `in_query`, (pairs or 1, N), and `in_passage`, (pairs, M), are
    False for padding.
    """
    largest = cosines.masked_fill(~in_passage.unsqueeze(-1), LOWEST).amax(1)  # (pairs, N)
    counted = in_query & in_passage.any(-1, keepdim=True)
    return largest.masked_fill(~counted, 0).sum(-1) / counted.sum(-1).clamp(min=1)
