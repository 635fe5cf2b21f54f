"""Scores a query's tokens against passages' tokens with an encoder's own `logits`.

Like `HeadScorer`, it computes in micro-batches of a fixed size, the last one padded with zeros,
each in one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dipair_index.encoders.base import TextEncoder
from dipair_index.errors import ModelError
from dipair_index.records import FloatArray
from dipair_index.rerank.scorer import (
    MICRO_BATCH,
    PairSide,
    PassageTokens,
    TokenScorer,
    micro_batches,
    work_through,
)
from dipair_index.threads import thread_count


class EncoderScorer(TokenScorer):
    """Scores by the head of any `TextEncoder`, such as `OnnxEncoder`.

    `threads` are by default as many as the process may use. Raises `ModelError` if the encoder
    does not return one logit per passage.
    """

    def __init__(self, encoder: TextEncoder, *, threads: int | None = None) -> None:
        sizes = encoder.sizes
        super().__init__((sizes.max_query_tokens, sizes.dim), (sizes.max_passage_tokens, sizes.dim))
        self._encoder = encoder
        self._threads = threads
        # loads the head, so that its errors are raised when an index is opened
        nothing = np.zeros((1, *self._passage_shape), np.float32)
        shape = encoder.logits(np.zeros(self._query_shape, np.float32), nothing).shape
        if shape != (1,):
            raise ModelError(
                f"the encoder {encoder.name} gives logits of shape {shape} for one passage: "
                "expected (1,), one logit per passage"
            )

    def _logits(self, query_tokens: FloatArray, passages: PassageTokens) -> FloatArray:
        queries = query_tokens if query_tokens.ndim == 3 else query_tokens[np.newaxis]
        self._check(queries.shape[1:], passages.shape)
        logits = np.empty((len(queries), passages.count), np.float32)

        def score(rows: slice) -> None:
            tokens = np.zeros((MICRO_BATCH, *self._passage_shape), np.float32)
            tokens[: rows.stop - rows.start] = passages.read(rows)
            for query, row in zip(queries, logits, strict=True):
                row[rows] = self._encoder.logits(query, tokens)[: rows.stop - rows.start]

        self._in_threads(list(micro_batches(passages.count)), score)
        return logits if query_tokens.ndim == 3 else logits[0]

    def _pair_logits(self, queries: PairSide, passages: PairSide) -> FloatArray:
        """Scores the pairs of each query together, since an encoder takes one query at a time."""
        logits = np.empty(len(queries.at), np.float32)
        order = np.argsort(queries.at, kind="stable")
        starts = np.flatnonzero(np.diff(queries.at[order], prepend=-1))
        ends = np.append(starts[1:], len(order))
        parts = [
            slice(start + part.start, start + part.stop)
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
            for part in micro_batches(end - start)
        ]

        def score(part: slice) -> None:
            pairs = order[part]
            query = queries.tokens(queries.at[pairs[:1]])[0]
            logits[pairs] = self._encoder.logits(query, passages.tokens(passages.at[pairs]))

        self._in_threads(parts, score)
        return logits

    def _in_threads(self, parts: list[slice], work: Callable[[slice], None]) -> None:
        threads = min(self._threads or thread_count(), max(len(parts), 1))
        with ThreadPoolExecutor(threads) as pool:
            work_through(parts, work, pool, threads)
