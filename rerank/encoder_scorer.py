"""Scores a query's tokens against passages' tokens with an encoder's own `logits`.

Like `HeadScorer`, it computes in micro-batches of a fixed size, the last one padded with zeros,
each in one thread.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dipair_index.encoders.base import TextEncoder
from dipair_index.errors import ModelError
from dipair_index.records import FloatArray
from dipair_index.rerank.scorer import (
    MICRO_BATCH,
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
        self._check(query_tokens.shape, passages)
        logits = np.empty(passages.count, np.float32)

        def score(rows: slice) -> None:
            tokens = np.zeros((MICRO_BATCH, *self._passage_shape), np.float32)
            tokens[: rows.stop - rows.start] = passages.read(rows)
            scored = self._encoder.logits(query_tokens, tokens)
            logits[rows] = scored[: rows.stop - rows.start]

        parts = list(micro_batches(passages.count))
        threads = min(self._threads or thread_count(), max(len(parts), 1))
        with ThreadPoolExecutor(threads) as pool:
            work_through(parts, score, pool, threads)
        return logits
