"""What scores the tokens of a tuple: a module a system, all read and trained alike.

    tokens of each side, (pairs, kept, dim) ─► head ─► logits (pairs,), or (pairs, classes)

DiPair is Chen et al., Findings of EMNLP 2020; its baselines are described in its section 4.2.

Deviations from the papers:
- A system that is a similarity gives scale * similarity + bias, both learned, so that its logits
  can match a teacher's.
- poly and maxsim leave zero tokens, which fill up short texts, out; the others read them as any.
- poly compares tokens at unit length, with a learned scale in the attention too: the length of an
  encoder's outputs differs from encoder to encoder, and with it how sharp a softmax is.
- `similarity_residual` adds a scaled similarity to the logit, and the last layer begins at zero: so
  training begins at the encoder's own ranking. "cosine" is that of the first tokens, "maxsim" the
  mean over the query's tokens of the largest cosine with the other text's; with several sides it
  is the mean over them. With several classes it is added k times to that of grade k.
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

LOWEST = -1e4
"""Below every scaled cosine, also in half precision."""


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


class Head(ClassHead):
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


class DenseHead(ClassHead):
    """ffnn, DiPair-FFNN (section 3.5): all kept tokens in a row through dense layers."""

    def __init__(self, config: DiPairConfig, width: int | None = None) -> None:
        kept = sum(map(config.kept, config.sides))
        widths = [kept * config.token_dim if width is None else width, *config.head_hidden]
        super().__init__(config, widths[-1])
        self.layers = nn.ModuleList(map(nn.Linear, widths, widths[1:]))
        self.dropout = nn.Dropout(config.head_dropout)

    def features(self, *tokens: Tensor) -> Tensor:
        """What the first layer reads, (pairs, width)."""
        return torch.cat([side.flatten(1) for side in tokens], dim=1)

    def forward(self, *tokens: Tensor) -> Tensor:
        """(pairs, kept, dim) of each side to logits (pairs,), or (pairs, classes)."""
        hidden = self.features(*tokens)
        for layer in self.layers:
            hidden = self.dropout(functional.relu(layer(hidden)))
        return self._logits(hidden, tokens)


class FirstTokensHead(DenseHead):
    """de-ffnn, the baseline DE-FFNN (section 4.2): the first tokens in a row through dense layers.

    It is `DenseHead` where one token is kept of each text.
    """


class DistilledSentenceHead(DenseHead):
    """dse, Distilled Sentence Embedding (Barkan et al., AAAI 2020): u, v, u * v and |u - v|.

    u and v are the first tokens, in the place of their pooled sentence embedding; the four go
    through dense layers.
    """

    def __init__(self, config: DiPairConfig) -> None:
        super().__init__(config, 4 * config.token_dim)

    def features(self, *tokens: Tensor) -> Tensor:
        """(pairs, 4 * dim)."""
        u, v = (side[:, 0] for side in tokens)
        return torch.cat([u, v, u * v, (u - v).abs()], dim=1)


class SimilarityHead(TupleHead):
    """A head that scales one similarity a pair."""

    def __init__(self, config: DiPairConfig) -> None:
        super().__init__()
        self.similarity_scale = nn.Parameter(torch.tensor(FIRST_SCALE))
        self.bias = nn.Parameter(torch.tensor(FIRST_BIAS))

    def initialise(self) -> None:
        """Begins where the residual of the other heads does."""
        self.similarity_scale.fill_(FIRST_SCALE)
        self.bias.fill_(FIRST_BIAS)

    @abstractmethod
    def similarity(self, cosines: Tensor, in_query: Tensor, in_passage: Tensor) -> Tensor:
        """Cosines of the tokens, (pairs, M, N), to (pairs,).

        (pairs, N) and (pairs, M) say which tokens there are, others being zeros; one row for the
        query where it is that of all pairs.
        """

    def forward(self, *tokens: Tensor) -> Tensor:
        """(pairs, N, dim) and (pairs, M, dim) to logits (pairs,)."""
        query, passage = (functional.normalize(side, dim=-1) for side in tokens)
        return self.scaled(passage @ query.mT, query.any(-1), passage.any(-1))

    def scaled(self, cosines: Tensor, in_query: Tensor, in_passage: Tensor) -> Tensor:
        """The logits of what `similarity` reads."""
        return self.similarity_scale * self.similarity(cosines, in_query, in_passage) + self.bias


class Cosine(SimilarityHead):
    """de-cos, the baseline DE-Cos (section 4.2): the cosine of the first tokens."""

    def similarity(self, cosines: Tensor, in_query: Tensor, in_passage: Tensor) -> Tensor:
        """The cosine of the first tokens."""
        return cosines[:, 0, 0]


class Poly(SimilarityHead):
    """poly, Poly-encoders (Humeau et al., ICLR 2020, section 4.4), with the first outputs as codes.

    The query's first token attends over the passage's M tokens, and is compared with the mixture.
    """

    def __init__(self, config: DiPairConfig) -> None:
        super().__init__(config)
        self.attention_scale = nn.Parameter(torch.tensor(FIRST_SCALE))

    def initialise(self) -> None:
        """Begins with an attention that prefers like tokens."""
        super().initialise()
        self.attention_scale.fill_(FIRST_SCALE)

    def similarity(self, cosines: Tensor, in_query: Tensor, in_passage: Tensor) -> Tensor:
        """The query's product with its mixture of the passage's tokens."""
        first = cosines[:, :, 0]  # (pairs, M)
        weights = (self.attention_scale * first).masked_fill(~in_passage, LOWEST).softmax(-1)
        # a mixture's product is the mixture of the products
        return (weights * first).sum(-1)


class MaxSim(SimilarityHead):
    """maxsim, ColBERT's late interaction (Khattab and Zaharia, SIGIR 2020, section 3.3).

    The mean over the query's tokens, not the sum, of the largest cosine with a passage's token.
    """

    def similarity(self, cosines: Tensor, in_query: Tensor, in_passage: Tensor) -> Tensor:
        """The mean of the query tokens' largest cosines; 0 where a text has no token."""
        largest = cosines.masked_fill(~in_passage.unsqueeze(-1), LOWEST).amax(1)  # (pairs, N)
        counted = in_query & in_passage.any(-1, keepdim=True)
        return largest.masked_fill(~counted, 0).sum(-1) / counted.sum(-1).clamp(min=1)


def largest_cosines(query: Tensor, passage: Tensor) -> Tensor:
    """(pairs or 1, N, dim) and (pairs, M, dim), at length one or zero, to the residual (pairs,)."""
    return (passage @ query.mT).amax(1).mean(-1)


def served_logits(logits: Tensor) -> Tensor:
    """(pairs, classes) to one logit a pair, by which pairs of several classes are ranked.

    Its sigmoid is the expected grade, sum of k * softmax(logits)[k], as a share of the highest:
    with two classes it is their logits' difference.
    """
    highest = logits.shape[-1] - 1
    grades = torch.arange(highest + 1, device=logits.device, dtype=logits.dtype)
    met, unmet = (
        torch.logsumexp(logits + share.log(), dim=-1) for share in (grades, highest - grades)
    )
    return met - unmet


def make_head(config: DiPairConfig) -> TupleHead:
    """Returns the head of `config.system`."""
    heads: dict[str, type[TupleHead]] = {
        "tsf": Head,
        "ffnn": DenseHead,
        "de-ffnn": FirstTokensHead,
        "de-cos": Cosine,
        "dse": DistilledSentenceHead,
        "poly": Poly,
        "maxsim": MaxSim,
    }
    head: TupleHead = heads[config.system](config)
    return head
