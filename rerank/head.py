"""Scores queries' tokens against passages' tokens with a DiPair model's head, in torch.

    query tokens (N, dim), passage tokens (passages, M, dim) ─► head ─► logits (passages,)

The head computes in micro-batches of a fixed size, the last one padded with zeros, each in one
thread. So memory is bounded, and the score of a passage depends neither on the other passages nor
on the number of threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dipair_index.locks import COMPUTING
from dipair_index.models.config import Side
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.systems import Precision
from dipair_index.records import FloatArray
from dipair_index.rerank.fast_systems import fast_system
from dipair_index.rerank.scorer import (
    MICRO_BATCH,
    PairSide,
    PassageTokens,
    TokenScorer,
    micro_batches,
    work_through,
)
from dipair_index.threads import limit_openmp

_GPU_MICRO_BATCH = 4096


class HeadScorer(TokenScorer):
    """The head of a model of any system, over numpy arrays, with a copy of the model's weights.

    Results that depend on a passage only are computed once for several queries, and those that
    depend on one side only once for the pairs of a micro-batch that share its text.

    `threads` are by default as many as torch has. In float32, logits are within 1e-4 of the
    model's own, or of their `served_logits` if it has several classes; `precision="bfloat16"`
    changes logits by about 0.01, and is faster on processors with instructions for it
    (AVX512-BF16, AMX). Raises `SettingsError` if the model has more than two sides.
    """

    def __init__(
        self, model: DiPairModel, *, threads: int | None = None, precision: Precision = "float32"
    ) -> None:
        config = model.config
        dim = config.token_dim
        super().__init__((config.max_query_tokens, dim), (config.max_passage_tokens, dim))
        self._head = fast_system(model, getattr(torch, precision))
        self._device = model.device
        self._size = MICRO_BATCH if self._device.type == "cpu" else _GPU_MICRO_BATCH
        self._threads = threads

    def _logits(self, query_tokens: FloatArray, passages: PassageTokens) -> FloatArray:
        queries = query_tokens if query_tokens.ndim == 3 else query_tokens[np.newaxis]
        self._check(queries.shape[1:], passages.shape)
        logits = np.empty((len(queries), passages.count), np.float32)

        @torch.inference_mode()
        def prepare(tokens: FloatArray) -> Any:
            with COMPUTING:
                return self._head.prepare("query", self._tensor(tokens[np.newaxis]))

        @torch.inference_mode()
        def score(rows: slice) -> None:
            tokens = passages.read(rows)
            with COMPUTING:
                side = self._head.prepare("passage", self._micro_batch(tokens))
            for query, row in zip(prepared, logits, strict=True):
                with COMPUTING:
                    _copy_logits(self._head.score(query, side), row[rows])

        with self._pool() as pool:
            prepared = list(pool.map(prepare, queries))
            work_through(micro_batches(passages.count, self._size), score, pool, self._workers)
        return logits if query_tokens.ndim == 3 else logits[0]

    def _pair_logits(self, queries: PairSide, passages: PairSide) -> FloatArray:
        logits = np.empty(len(queries.at), np.float32)

        @torch.inference_mode()
        def score(pairs: slice) -> None:
            query = self._prepared("query", queries, pairs)
            passage = self._prepared("passage", passages, pairs)
            with COMPUTING:
                _copy_logits(self._head.score(query, passage), logits[pairs])

        with self._pool() as pool:
            work_through(micro_batches(len(logits), self._size), score, pool, self._workers)
        return logits

    def _prepared(self, side: Side, of: PairSide, pairs: slice) -> Any:
        """Returns what depends on one side of a micro-batch of pairs, a row a pair.

        It is computed once for each text. A query that all pairs share has one row.
        """
        at = of.at[pairs]
        at = np.append(at, np.repeat(at[-1:], self._size - len(at)))
        inverse: npt.NDArray[np.intp] | None
        distinct, inverse = np.unique(at, return_inverse=True)
        if len(distinct) == len(at):
            distinct, inverse = at, None
        elif side == "query" and len(distinct) == 1:
            inverse = None
        tokens = self._tensor(of.tokens(distinct))
        with COMPUTING:
            prepared = self._head.prepare(side, tokens)
            if inverse is None:
                return prepared
            rows = torch.from_numpy(inverse).to(self._device)
            return type(prepared)(*(part[rows] for part in prepared))

    @property
    def _workers(self) -> int:
        on_gpu = self._device.type != "cpu"
        return 1 if on_gpu else self._threads or torch.get_num_threads()

    def _pool(self) -> ThreadPoolExecutor:
        """Returns threads that live for one call, so that none exist at a fork."""
        return ThreadPoolExecutor(self._workers, initializer=compute_alone)

    def _micro_batch(self, tokens: FloatArray) -> Tensor:
        """Returns the tokens padded with zeros to a complete micro-batch, as a tensor."""
        if len(tokens) < self._size:
            whole = np.zeros((self._size, *tokens.shape[1:]), np.float32)
            whole[: len(tokens)] = tokens
            tokens = whole
        return self._tensor(tokens)

    def _tensor(self, tokens: FloatArray) -> Tensor:
        # tokens from a store may be read-only, which torch does not support
        return torch.from_numpy(np.require(tokens, np.float32, ["C", "W"])).to(self._device)


def _copy_logits(scored: Tensor, logits: FloatArray) -> None:
    """Copies the logits of a micro-batch, without those of the padding, into `logits`."""
    logits[:] = scored[: len(logits)].cpu().numpy()


def compute_alone() -> None:
    """Limits torch to one thread in the calling thread.

    The product of one micro-batch is too short to be split: the threads would wait for each other
    at every step, and much longer if another process uses a core.
    """
    with COMPUTING:
        torch.get_num_threads()  # initialises torch in this thread before the limit, not after it
        limit_openmp(1)
