"""Scores a query's tokens against passages' tokens in ONNX Runtime, without torch.

As `HeadScorer` does it: micro-batches of one fixed size, the last one filled up with zeros, each
the work of one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dipair_index.onnx_model import HEAD, Graphs
from dipair_index.records import FloatArray
from dipair_index.rerank.scorer import MICRO_BATCH, Scorer, micro_batches, work_through
from dipair_index.threads import thread_count


class OnnxHeadScorer(Scorer):
    """The head of a DiPair model from its graphs; its logits are torch's to within 1e-4.

    `threads` are as many as the process may use where they are not given.
    """

    def __init__(self, graphs: Graphs, *, threads: int | None = None) -> None:
        self._session = graphs.session(HEAD)
        sizes = graphs.record.sizes
        self._query_shape = (sizes.max_query_tokens, sizes.dim)
        self._passage_shape = (sizes.max_passage_tokens, sizes.dim)
        self._threads = threads

    def _logits(
        self,
        query_tokens: FloatArray,
        passage_shape: tuple[int, ...],
        count: int,
        read: Callable[[slice], FloatArray],
    ) -> FloatArray:
        if (query_tokens.shape, passage_shape) != (self._query_shape, self._passage_shape):
            raise ValueError(
                f"tokens must be {self._query_shape} for the query and {self._passage_shape} a "
                f"passage, got {query_tokens.shape} and {passage_shape}"
            )
        query = np.ascontiguousarray(query_tokens[np.newaxis], np.float32)
        logits = np.empty(count, np.float32)

        def score(part: slice) -> None:
            passages = np.zeros((MICRO_BATCH, *self._passage_shape), np.float32)
            passages[: part.stop - part.start] = read(part)
            (scored,) = self._session.run(None, {"query": query, "passages": passages})
            logits[part] = scored[: part.stop - part.start]

        threads = self._threads or thread_count()
        with ThreadPoolExecutor(threads) as pool:
            work_through(micro_batches(count), score, pool, threads)
        return logits
