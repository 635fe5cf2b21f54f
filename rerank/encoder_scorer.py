"""Scores a query's tokens against passages' tokens by an encoder's own `logits`.

As `HeadScorer` does it: micro-batches of one fixed size, the last one filled up with zeros, each
the work of one thread.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dipair_index.encoders.base import TextEncoder
from dipair_index.errors import ModelError
from dipair_index.records import FloatArray
from dipair_index.rerank.scorer import MICRO_BATCH, Passages, Scorer, micro_batches, work_through
from dipair_index.threads import thread_count


class EncoderScorer(Scorer):
    """The head of any encoder, that of `OnnxEncoder` above all.

    `threads` are as many as the process may use where they are not given. Raises `ModelError`
    where the encoder does not give one logit a passage.
    """

    def __init__(self, encoder: TextEncoder, *, threads: int | None = None) -> None:
        sizes = encoder.sizes
        super().__init__((sizes.max_query_tokens, sizes.dim), (sizes.max_passage_tokens, sizes.dim))
        self._encoder = encoder
        self._threads = threads
        # loads the head now, so that what is wrong with it is said when an index is opened
        nothing = np.zeros((1, *self._passage_shape), np.float32)
        shape = encoder.logits(np.zeros(self._query_shape, np.float32), nothing).shape
        if shape != (1,):
            raise ModelError(
                f"the encoder {encoder.name} gives logits of shape {shape} for one passage: "
                "expected (1,), a logit a passage"
            )

    def _logits(self, query_tokens: FloatArray, passages: Passages) -> FloatArray:
        self._check(query_tokens.shape, passages)
        logits = np.empty(passages.count, np.float32)

        def score(part: slice) -> None:
            tokens = np.zeros((MICRO_BATCH, *self._passage_shape), np.float32)
            tokens[: part.stop - part.start] = passages.read(part)
            scored = self._encoder.logits(query_tokens, tokens)
            logits[part] = scored[: part.stop - part.start]

        parts = list(micro_batches(passages.count))
        threads = min(self._threads or thread_count(), max(len(parts), 1))
        with ThreadPoolExecutor(threads) as pool:
            work_through(parts, score, pool, threads)
        return logits
