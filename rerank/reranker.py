"""`Reranker`: reranks texts without an index, with the API of a CrossEncoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from dipair_index.encoders.base import TextEncoder, refuse_tuples
from dipair_index.encoders.open import backend_for, open_encoder
from dipair_index.errors import SettingsError
from dipair_index.models.systems import Backend, Precision
from dipair_index.records import FloatArray
from dipair_index.rerank.arguments import (
    checked_pairs,
    checked_queries,
    checked_texts,
    checked_top_k,
)
from dipair_index.rerank.open_scorer import open_token_scorer
from dipair_index.rerank.ranking import best_first, probability
from dipair_index.rerank.text_cache import SHARED_CACHE, TextCache
from dipair_index.stores.codecs import open_codec
from dipair_index.stores.names import DEFAULT_CODEC


class _Ranked(TypedDict):
    corpus_id: int
    score: float


class RankedText(_Ranked, total=False):
    """A result of `Reranker.rank`: position in the list, score, and the text if requested."""

    text: str


class Reranker:
    """A DiPair model that scores texts for queries; needs neither an index nor torch.

    Each text is encoded once per process, and its token embeddings are cached, so ranking it again
    for another query costs only the head. They are rounded as in an index, so scores equal those of
    an index with this codec. Threads may share it.

    Parameters
    ----------
    model : str, Path or encoder, optional
        A DiPair model by folder or hub name, or as `open_encoder` opened it. The default is the
        one in the package.
    device, backend
        As `open_encoder` takes them.
    precision : {"float32", "bfloat16"}
        The number type that the head computes in.
    codec : {"int6", "int8", "int4", "float16", "float32"}
        The codec of the cached token embeddings; the default is that of an index, too.
    cache : TextCache, optional
        The cache of encoded texts. By default, all rerankers and indexes of a process share one.

    Raises
    ------
    ModelError
        If there is no such model.
    SettingsError
        If the model reads more than a query and a passage, or if a setting is invalid.

    Examples
    --------
    >>> from dipair_index import Reranker
    >>> reranker = Reranker()
    >>> texts = ["Bees dance to tell where flowers are.", "Yeast makes the gas that lifts dough."]
    >>> [found["corpus_id"] for found in reranker.rank("why does dough rise", texts)]
    [1, 0]
    """

    def __init__(
        self,
        model: str | Path | TextEncoder | None = None,
        *,
        device: str = "cpu",
        backend: Backend = "auto",
        precision: Precision = "float32",
        codec: str = DEFAULT_CODEC,
        cache: TextCache | None = None,
    ) -> None:
        if model is None or isinstance(model, (str, Path)):
            model = open_encoder(model, backend=backend_for(precision, backend), device=device)
        refuse_tuples(model.sides)
        self._encoder = model
        self._scorer = open_token_scorer(model, precision)
        sizes = model.sizes
        self._codec = open_codec(codec, tokens_per_passage=sizes.max_passage_tokens, dim=sizes.dim)
        self._cache = SHARED_CACHE if cache is None else cache

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        raw_scores: bool = False,
    ) -> list[RankedText]:
        """Returns the best documents for a query, best first, ties in the order given.

        Parameters
        ----------
        query : str
            The query.
        documents : list of str
            The texts to rank.
        top_k : int or None
            Documents to return; None is all of them.
        return_documents : bool
            Return the texts, too.
        raw_scores : bool
            Return logits instead of scores in [0, 1].

        Returns
        -------
        list of dict
            `corpus_id`, the index in `documents`; `score`; and with `return_documents` `text`.

        Raises
        ------
        SettingsError
            If the query or a document is not a str, or if `top_k` is invalid.

        Examples
        --------
        >>> found = Reranker().rank(
        ...     "why does dough rise", ["Bees dance.", "Yeast makes gas."], 1, return_documents=True
        ... )
        >>> found[0]["corpus_id"], found[0]["text"], 0 < found[0]["score"] < 1
        (1, 'Yeast makes gas.', True)
        """
        if not isinstance(query, str):
            raise SettingsError(f"rank takes one query (str), got {query!r}")
        texts, top_k = checked_texts(documents), checked_top_k(top_k)
        logits = self._logits(checked_queries(query), [texts])
        found: list[RankedText] = []
        for index in best_first(range(len(texts)), logits, top_k):
            logit = float(logits[index])
            score = logit if raw_scores else probability(logit)
            found.append({"corpus_id": index, "score": score})
            if return_documents:
                found[-1]["text"] = texts[index]
        return found

    def predict(self, pairs: Iterable[tuple[str, str]], *, raw_scores: bool = False) -> FloatArray:
        """Returns the scores of (query, document) pairs in the order given, float32 (pairs,).

        Equal queries, and equal documents, are encoded once. Raises `SettingsError` if `pairs` are
        not pairs of texts.

        Examples
        --------
        >>> scores = Reranker().predict([("dough", "Yeast makes gas."), ("dough", "Bees dance.")])
        >>> scores.shape, bool(scores[0] > scores[1])
        ((2,), True)
        """
        by_query: dict[str, list[int]] = {}
        texts: list[str] = []
        for query, text in checked_pairs(pairs):
            by_query.setdefault(query, []).append(len(texts))
            texts.append(text)
        texts = checked_texts(texts)
        given = [[texts[index] for index in indexes] for indexes in by_query.values()]
        logits = self._logits(checked_queries(list(by_query)), given)
        scores = np.empty(len(texts), np.float32)
        scores[[index for indexes in by_query.values() for index in indexes]] = (
            logits if raw_scores else [probability(float(logit)) for logit in logits]
        )
        return scores

    def _logits(self, queries: Sequence[str], texts: Sequence[Sequence[str]]) -> FloatArray:
        """Returns the logits of each query's texts, concatenated."""
        flat = [text for of_query in texts for text in of_query]
        rows = self._cache.rows(flat, self._encoder, self._codec)
        tokens = self._encoder.encode_queries(queries).tokens
        logits, start = [np.empty(0, np.float32)], 0
        for of_query, query_tokens in zip(texts, tokens, strict=True):
            own = rows[start : start + len(of_query)]
            logits.append(self._scorer.encoded_logits(query_tokens, own, self._codec))
            start += len(of_query)
        return np.concatenate(logits)
