"""Scores queries' tokens against passages' tokens; the last step of the data path.

    query tokens (N, dim), passage tokens (passages, M, dim) ─► the head ─► logits (passages,)

The passages go through the head in micro-batches of one fixed size, the last one filled up with
zeros, and each is the work of one thread. So memory is bounded, and a passage has the same score
whatever else is scored with it, by however many threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dipair_index.models.dipair import DiPairModel
from dipair_index.models.systems import Precision
from dipair_index.records import FloatArray
from dipair_index.rerank.fast_systems import fast_system
from dipair_index.rerank.scorer import MICRO_BATCH, Passages, Scorer, micro_batches, work_through
from dipair_index.threads import limit_openmp

_GPU_MICRO_BATCH = 4096


class HeadScorer(Scorer):
    """The head of a model of any system, with the weights that it has now, over numpy arrays.

    Many queries at once, (queries, N, dim), give (queries, passages); what a passage needs of the
    work whatever the query is done once.

    `threads` are as many as torch has where they are not given. In float32 logits are within 1e-4
    of the model's own, those of a model with several classes of `served_logits` of its own;
    `precision="bfloat16"` trades about 0.01 of a logit for speed, where the
    processor has instructions for it (AVX512-BF16, AMX).
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

    def _logits(self, query_tokens: FloatArray, passages: Passages) -> FloatArray:
        queries = query_tokens if query_tokens.ndim == 3 else query_tokens[np.newaxis]
        self._check(queries.shape[1:], passages)
        logits = np.empty((len(queries), passages.count), np.float32)

        @torch.inference_mode()
        def prepare(tokens: FloatArray) -> Any:
            return self._head.prepare("query", self._tensor(tokens[np.newaxis]))

        @torch.inference_mode()
        def score(part: slice) -> None:
            tokens = self._micro_batch(passages.read(part))
            side = self._head.prepare("passage", tokens)
            for query, row in zip(prepared, logits, strict=True):
                _keep(self._head.score(query, side), row[part])

        on_gpu = self._device.type != "cpu"
        threads = 1 if on_gpu else self._threads or torch.get_num_threads()
        # threads that live for one call, so that nothing is left behind for a fork to break
        with ThreadPoolExecutor(threads, initializer=compute_alone) as pool:
            prepared = list(pool.map(prepare, queries))
            work_through(micro_batches(passages.count, self._size), score, pool, threads)
        return logits if query_tokens.ndim == 3 else logits[0]

    def _micro_batch(self, tokens: FloatArray) -> Tensor:
        """Tokens, filled up with zeros to a whole micro-batch."""
        if len(tokens) < self._size:
            whole = np.zeros((self._size, *tokens.shape[1:]), np.float32)
            whole[: len(tokens)] = tokens
            tokens = whole
        return self._tensor(tokens)

    def _tensor(self, tokens: FloatArray) -> Tensor:
        # what comes from a store may be read-only, which torch does not know
        return torch.from_numpy(np.require(tokens, np.float32, ["C", "W"])).to(self._device)


def _keep(scored: Tensor, logits: FloatArray) -> None:
    """Writes the first logits of a micro-batch, those of no fillings, into `logits`."""
    logits[:] = scored[: len(logits)].cpu().numpy()


def compute_alone() -> None:
    """Keeps torch from sharing this thread's products among threads of its own.

    A product of one micro-batch is too short for that: threads then wait for each other at every
    step, and for much longer where another process has taken a core.
    """
    torch.get_num_threads()  # makes torch set up this thread now, not after the limit
    limit_openmp(1)
