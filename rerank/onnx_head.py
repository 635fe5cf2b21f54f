"""Scores a query's tokens against passages' tokens in ONNX Runtime, without torch.

As `HeadScorer` does it: micro-batches of one fixed size, the last one filled up with zeros, each
the work of one thread.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dipair_index.onnx.graphs import HEAD, Graphs
from dipair_index.records import FloatArray
from dipair_index.rerank.scorer import MICRO_BATCH, Passages, Scorer, micro_batches, work_through
from dipair_index.threads import thread_count


class OnnxHeadScorer(Scorer):
    """The head of a DiPair model from its graphs; its logits are torch's to within 1e-4.

    `threads` are as many as the process may use where they are not given.
    """

    def __init__(self, graphs: Graphs, *, threads: int | None = None) -> None:
        sizes = graphs.record.sizes
        super().__init__((sizes.max_query_tokens, sizes.dim), (sizes.max_passage_tokens, sizes.dim))
        self._session = graphs.session(HEAD)
        self._threads = threads

    def _logits(self, query_tokens: FloatArray, passages: Passages) -> FloatArray:
        self._check(query_tokens.shape, passages)
        query = np.ascontiguousarray(query_tokens[np.newaxis], np.float32)
        logits = np.empty(passages.count, np.float32)

        def score(part: slice) -> None:
            tokens = np.zeros((MICRO_BATCH, *self._passage_shape), np.float32)
            tokens[: part.stop - part.start] = passages.read(part)
            (scored,) = self._session.run(None, {"query": query, "passages": tokens})
            logits[part] = scored[: part.stop - part.start]

        threads = self._threads or thread_count()
        with ThreadPoolExecutor(threads) as pool:
            work_through(micro_batches(passages.count), score, pool, threads)
        return logits
