"""The heads of all systems, read and trained alike; DiPair's own is in `transformer_head`.

    tokens of each side, (pairs, kept, dim) ─► head ─► logits (pairs,), or (pairs, classes)

DiPair is Chen et al., Findings of EMNLP 2020; its baselines are described in its section 4.2.

Deviations from the papers:
- A system that is a similarity gives scale * similarity + bias, both learned, so that its logits
  can match a teacher's.
- poly and maxsim leave zero tokens, which fill up short texts, out; the others read them as any.
- poly compares tokens at unit length, with a learned scale in the attention too: the length of an
  encoder's outputs differs from encoder to encoder, and with it how sharp a softmax is.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from dipair_index.models.config import DiPairConfig
from dipair_index.models.transformer_head import (
    FIRST_BIAS,
    FIRST_SCALE,
    ClassHead,
    TransformerHead,
    TupleHead,
)

LOWEST = -1e4
"""Below every scaled cosine, also in half precision."""


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
        "tsf": TransformerHead,
        "ffnn": DenseHead,
        "de-ffnn": FirstTokensHead,
        "de-cos": Cosine,
        "dse": DistilledSentenceHead,
        "poly": Poly,
        "maxsim": MaxSim,
    }
    head: TupleHead = heads[config.system](config)
    return head
