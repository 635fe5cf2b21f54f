"""A query and a passage: what their tokens stand for, which met which, and what the logit is of."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.models.heads import served_logits
from dipair_index.records import FloatArray
from dipair_index.rerank.inspection.words import Vocabulary, Word, present, words_behind


class Meeting(NamedTuple):
    """A query token, and the passage token with which it has the largest similarity."""

    token: int
    words: list[Word]
    met: int
    similarity: float


class KeptToken(NamedTuple):
    """A kept token of a passage: the words it stands for, and the nearest of the vocabulary."""

    token: int
    words: list[Word]
    nearest: list[Word]
    norm: float


class Redundancy(NamedTuple):
    """How alike the tokens of a passage are.

    The effective rank is the exponential of the entropy of the shares of the singular values (Roy
    and Vetterli, "The effective rank", EUSIPCO 2007): 1 if all tokens are one direction, and their
    number if they are at right angles.
    """

    tokens: int
    mean_cosine: float
    effective_rank: float

    @classmethod
    def of(cls, tokens: FloatArray) -> Redundancy:
        """Returns the redundancy of the tokens (kept, dim) of one passage."""
        unit = present(tokens).astype(np.float64)
        count = len(unit)
        if count == 0:
            return cls(0, 0.0, 0.0)
        cosines = unit @ unit.T
        mean = (cosines.sum() - count) / (count * (count - 1)) if count > 1 else 1.0
        values = np.linalg.svd(unit, compute_uv=False)
        shares = values[values > 1e-12] / values.sum()
        return cls(count, float(mean), float(np.exp(-(shares * np.log(shares)).sum())))


class Logit(NamedTuple):
    """A logit as the sum of the similarity at which the head begins, and what the head adds."""

    logit: float
    similarity: float
    added: float


class PairInspection(NamedTuple):
    """All that is found of a query and a passage."""

    query: str
    passage: str
    meetings: list[Meeting]
    tokens: list[KeptToken]
    redundancy: Redundancy
    logit: Logit
    similarities: FloatArray  # (query tokens, passage tokens)
    cosines: FloatArray  # (passage tokens, passage tokens)

    def record(self) -> dict[str, Any]:
        """The same as JSON: `query`, `passage`, `tokens`, `similarity`, `logit`, `redundancy`."""
        return {
            "query": self.query,
            "passage": self.passage,
            "tokens": {
                "query": [_record(each) for each in self.meetings],
                "passage": [_record(each) for each in self.tokens],
            },
            "similarity": self.similarities.tolist(),
            "logit": self.logit._asdict(),
            "redundancy": self.redundancy._asdict(),
        }


def inspect_pair(
    encoder: DualEncoder, query: str, passage: str, vocabulary: Vocabulary | None, *, nearest: int
) -> PairInspection:
    """Inspects a query and a passage, of which nothing needs to be in an index.

    The `nearest` words of `vocabulary` are found for each passage token; without one, none are. The
    query is encoded once for each of its words, and so is the passage.
    """
    asked = encoder.encode_queries([query]).tokens[0]
    kept = encoder.encode_passages([passage]).tokens[0]
    behind = {
        "query": words_behind(encoder, "query", query),
        "passage": words_behind(encoder, "passage", passage),
    }
    similarities = token_similarities(encoder, asked, kept)
    near = vocabulary.nearest(kept, nearest) if vocabulary else [[] for _ in similarities.T]
    unit = present(kept)
    return PairInspection(
        query,
        passage,
        [
            Meeting(place, words, int(row.argmax()), float(row.max()))
            for place, (words, row) in enumerate(zip(behind["query"], similarities, strict=True))
            if len(row)
        ],
        [
            KeptToken(place, words, near[place], float(norm))
            for place, (words, norm) in enumerate(
                zip(behind["passage"], np.linalg.norm(kept[kept.any(-1)], axis=-1), strict=True)
            )
        ],
        Redundancy.of(kept),
        split_logits(encoder, asked, kept[None])[0],
        similarities,
        unit @ unit.T,
    )


def token_similarities(
    encoder: DualEncoder, query_tokens: FloatArray, passage_tokens: FloatArray
) -> FloatArray:
    """Returns the similarity of each query token with each passage token that is there.

    Tokens of clusters are without their centre, and are multiplied; others are compared by cosine.
    """
    products: FloatArray
    if encoder.model.config.keep != "clusters":
        products = present(query_tokens) @ present(passage_tokens).T
        return products
    asked = query_tokens[query_tokens.any(-1)]
    common = asked @ encoder.model.centre.detach().cpu().numpy()
    products = asked @ passage_tokens[passage_tokens.any(-1)].T + common[:, None]
    return products


def split_logits(
    encoder: DualEncoder, query_tokens: FloatArray, passage_tokens: FloatArray
) -> list[Logit]:
    """Returns the logits of a query's tokens (N, dim) with passages' (passages, M, dim), split."""
    head = encoder.model.head
    passages = torch.from_numpy(passage_tokens)
    query = torch.from_numpy(query_tokens).expand(len(passages), -1, -1)
    with torch.inference_mode():
        logits = head(query, passages)
        begun = head.similarity_part(query, passages)
    if logits.ndim > 1:
        logits, begun = served_logits(logits), served_logits(begun)
    return [
        Logit(whole, similar, whole - similar)
        for whole, similar in zip(logits.tolist(), begun.tolist(), strict=True)
    ]


def _record(each: Meeting | KeptToken) -> dict[str, Any]:
    record = each._asdict()
    for name in ("words", "nearest"):
        if name in record:
            record[name] = [
                {key: value for key, value in word._asdict().items() if value is not None}
                for word in record[name]
            ]
    return record
