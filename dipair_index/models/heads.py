"""The heads of all architectures; `transformer_head` and `prettr` hold those with layers.

    tokens of each side, (pairs, kept, dim) ─► head ─► logits (pairs,), or (pairs, classes)

DiPair is Chen et al., Findings of EMNLP 2020; its baselines are described in its section 4.2.

Deviations from the papers:
- A head that is a similarity returns scale * similarity + bias, both learned, so that its logits
  can match a teacher's.
- poly and maxsim mask the zero vectors that pad short texts; the other heads read them as tokens.
- poly compares tokens of unit length, with a learned scale in the attention too: the norm of the
  hidden states, and with it the sharpness of a softmax, differs from encoder to encoder.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from dipair_index.models.aligned_head import AlignedHead
from dipair_index.models.config import DiPairConfig
from dipair_index.models.prettr import JointLayersHead
from dipair_index.models.transformer_head import (
    FIRST_BIAS,
    FIRST_SCALE,
    LOWEST,
    ClassHead,
    TransformerHead,
    TupleHead,
    mean_of_largest,
)


class DenseHead(ClassHead):
    """ffnn, DiPair-FFNN (section 3.5): dense layers over the concatenated tokens of all sides."""

    def __init__(self, config: DiPairConfig, width: int | None = None) -> None:
        kept = sum(map(config.kept, config.sides))
        widths = [kept * config.token_dim if width is None else width, *config.head_hidden]
        super().__init__(config, widths[-1])
        self.layers = nn.ModuleList(map(nn.Linear, widths, widths[1:]))
        self.dropout = nn.Dropout(config.head_dropout)

    def features(self, *tokens: Tensor) -> Tensor:
        """Returns the input of the first layer, (pairs, width)."""
        return torch.cat([side.flatten(1) for side in tokens], dim=1)

    def forward(self, *tokens: Tensor) -> Tensor:
        """Returns logits, (pairs,) or (pairs, classes), of tokens, (pairs, kept, dim) per side."""
        hidden = self.features(*tokens)
        for layer in self.layers:
            hidden = self.dropout(functional.relu(layer(hidden)))
        return self._logits(hidden, tokens)


class FirstTokensHead(DenseHead):
    """de-ffnn, the baseline DE-FFNN (section 4.2): dense layers over the first tokens.

    It is `DenseHead` with a truncated output of one token per text.
    """


class DistilledSentenceHead(DenseHead):
    """dse, Distilled Sentence Embedding (Barkan et al., AAAI 2020): u, v, u * v and |u - v|.

    u and v are the first tokens of the two texts, in place of the paper's pooled sentence
    embeddings. The concatenation of the four vectors is the input of dense layers.
    """

    def __init__(self, config: DiPairConfig) -> None:
        super().__init__(config, 4 * config.token_dim)

    def features(self, *tokens: Tensor) -> Tensor:
        """Returns u, v, u * v and |u - v|, concatenated: (pairs, 4 * dim)."""
        u, v = (side[:, 0] for side in tokens)
        return torch.cat([u, v, u * v, (u - v).abs()], dim=1)


class SimilarityHead(TupleHead):
    """A head whose logit is a scaled similarity of a query and a passage."""

    def __init__(self, config: DiPairConfig) -> None:
        super().__init__()
        self.similarity_scale = nn.Parameter(torch.tensor(FIRST_SCALE))
        self.bias = nn.Parameter(torch.tensor(FIRST_BIAS))

    def initialise(self) -> None:
        """Sets the initial scale and bias, which are those of the other heads' residual."""
        self.similarity_scale.fill_(FIRST_SCALE)
        self.bias.fill_(FIRST_BIAS)

    @abstractmethod
    def similarity(self, cosines: Tensor, in_query: Tensor, in_passage: Tensor) -> Tensor:
        """Returns the similarity of each pair, (pairs,), from its tokens' cosines, (pairs, M, N).

        `in_query`, (pairs, N), and `in_passage`, (pairs, M), are False for padding. `in_query` has
        one row if all pairs have the same query.
        """

    def forward(self, *tokens: Tensor) -> Tensor:
        """Returns logits, (pairs,), of a query's and a passage's tokens.

        These are (pairs, N, dim) and (pairs, M, dim).
        """
        query, passage = (functional.normalize(side, dim=-1) for side in tokens)
        return self.scaled(passage @ query.mT, query.any(-1), passage.any(-1))

    def similarity_part(self, *tokens: Tensor) -> Tensor:
        """Returns the logits, which are nothing but a scaled similarity."""
        return self.forward(*tokens)

    def scaled(self, cosines: Tensor, in_query: Tensor, in_passage: Tensor) -> Tensor:
        """Returns scale * similarity + bias, (pairs,), with the arguments of `similarity`."""
        return self.similarity_scale * self.similarity(cosines, in_query, in_passage) + self.bias


class Cosine(SimilarityHead):
    """de-cos, the baseline DE-Cos (section 4.2): the cosine of the first tokens."""

    def similarity(self, cosines: Tensor, in_query: Tensor, in_passage: Tensor) -> Tensor:
        """Returns the cosine of the first tokens."""
        return cosines[:, 0, 0]


class Poly(SimilarityHead):
    """poly, Poly-encoders (Humeau et al., ICLR 2020, section 4.4), with the first tokens as codes.

    The query's first token attends to the passage's M tokens, and is compared with their weighted
    mean.
    """

    def __init__(self, config: DiPairConfig) -> None:
        super().__init__(config)
        self.attention_scale = nn.Parameter(torch.tensor(FIRST_SCALE))

    def initialise(self) -> None:
        """Sets the initial scales and bias; the attention prefers similar tokens at first."""
        super().initialise()
        self.attention_scale.fill_(FIRST_SCALE)

    def similarity(self, cosines: Tensor, in_query: Tensor, in_passage: Tensor) -> Tensor:
        """Returns the query's product with the weighted mean of the passage's tokens."""
        first = cosines[:, :, 0]  # (pairs, M)
        weights = (self.attention_scale * first).masked_fill(~in_passage, LOWEST).softmax(-1)
        # the product with a weighted mean is the weighted mean of the products
        return (weights * first).sum(-1)


class MaxSim(SimilarityHead):
    """maxsim, ColBERT's late interaction (Khattab and Zaharia, SIGIR 2020, section 3.3).

    It is the mean over the query's tokens, where ColBERT has the sum, of the largest cosine with a
    token of the passage.
    """

    def similarity(self, cosines: Tensor, in_query: Tensor, in_passage: Tensor) -> Tensor:
        """Returns the mean of the query tokens' largest cosines; 0 if a text has no token."""
        return mean_of_largest(cosines, in_query, in_passage)


def served_logits(logits: Tensor) -> Tensor:
    """Returns one logit per pair, (pairs,), for ranking by a model of several classes.

    `logits` are (pairs, classes). The sigmoid of the result is the expected grade, the sum of
    k * softmax(logits)[k], divided by the highest grade. With two classes, the result is the
    difference of their logits.
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
        "prettr": JointLayersHead,
        "aligned": AlignedHead,
    }
    head: TupleHead = heads[config.system](config)
    return head
