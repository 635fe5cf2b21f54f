"""Scores a query's tokens against passages' tokens in ONNX Runtime, without torch.

As `HeadScorer` does it: micro-batches of one fixed size, the last one filled up with zeros, each
the work of one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from dipair_index.encoders import Precision, TextEncoder
from dipair_index.errors import SettingsError
from dipair_index.onnx_encoder import OnnxEncoder
from dipair_index.onnx_model import HEAD, Graphs
from dipair_index.records import FloatArray
from dipair_index.stores.codecs import Codec, Rows
from dipair_index.threads import thread_count

MICRO_BATCH = 50
"""Pairs that go through the head at once: 100 and 1,000 candidates leave no row empty."""


class Scorer(Protocol):
    """What scores pairs, whichever library computes it."""

    def encoded_logits(self, query_tokens: FloatArray, rows: Rows, codec: Codec) -> FloatArray:
        """Returns one logit a passage, from (N, dim) and passages as `codec` encoded them."""
        ...


def open_scorer(encoder: TextEncoder, precision: Precision = "float32") -> Scorer:
    """Returns what scores the tokens of `encoder`, by the library that it computes with.

    Raises `SettingsError` where that library has no such precision.
    """
    if isinstance(encoder, OnnxEncoder):
        if precision != "float32":
            raise SettingsError(f"ONNX Runtime has no head in {precision}: use --backend torch")
        return OnnxHeadScorer(encoder.graphs)
    from dipair_index.dual_encoder import DualEncoder
    from dipair_index.rerank.head import HeadScorer

    if not isinstance(encoder, DualEncoder):
        raise TypeError(f"expected an OnnxEncoder or a DualEncoder, got {type(encoder).__name__}")
    return HeadScorer(encoder.model, precision=precision)


class OnnxHeadScorer:
    """The head of a DiPair model from its graphs; its logits are torch's to within 1e-4.

    `threads` are as many as the process may use where they are not given.
    """

    def __init__(self, graphs: Graphs, *, threads: int | None = None) -> None:
        self._session = graphs.session(HEAD)
        sizes = graphs.record.sizes
        self._query_shape = (sizes.max_query_tokens, sizes.dim)
        self._passage_shape = (sizes.max_passage_tokens, sizes.dim)
        self._threads = threads

    def logits(self, query_tokens: FloatArray, passage_tokens: FloatArray) -> FloatArray:
        """Returns one logit a passage from (N, dim) and (passages, M, dim), in the order given.

        Raises `ValueError` for other shapes.
        """
        shape = passage_tokens.shape[1:]
        return self._logits(query_tokens, shape, len(passage_tokens), passage_tokens.__getitem__)

    def encoded_logits(self, query_tokens: FloatArray, rows: Rows, codec: Codec) -> FloatArray:
        """As `logits`, from passages as `codec` encoded them: (passages, bytes_per_passage).

        They are decoded a micro-batch at a time: all of them never are in memory as float32.
        """
        shape = (codec.tokens_per_passage, codec.dim)
        return self._logits(query_tokens, shape, len(rows), lambda part: codec.decode(rows[part]))

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

        def score(start: int) -> None:
            part = slice(start, min(start + MICRO_BATCH, count))
            passages = np.zeros((MICRO_BATCH, *self._passage_shape), np.float32)
            passages[: part.stop - start] = read(part)
            (scored,) = self._session.run(None, {"query": query, "passages": passages})
            logits[part] = scored[: part.stop - start]

        with ThreadPoolExecutor(self._threads or thread_count()) as pool:
            list(pool.map(score, range(0, count, MICRO_BATCH)))
        return logits
