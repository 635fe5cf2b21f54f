"""Scores one query's tokens against many passages' tokens; the last step of the data path.

    query tokens (N, dim), passage tokens (passages, M, dim) ─► DiPair's head ─► logits (passages,)

The passages go through the head in micro-batches of one fixed size, the last one filled up with
zeros. So memory is bounded, and a passage has the same score whatever else is scored with it.
"""

from __future__ import annotations

import numpy as np
import torch

from dipair_index.model import DiPairModel
from dipair_index.records import FloatArray

MICRO_BATCH = 32
"""Pairs that go through the head at once: 100 candidates leave few rows empty."""


class HeadScorer:
    """The head of a DiPair model over numpy arrays."""

    def __init__(self, model: DiPairModel) -> None:
        self._head = model.head.eval()
        self._device = model.device
        self._query_shape = (model.config.max_query_tokens, model.config.dim)
        self._passage_shape = (model.config.max_passage_tokens, model.config.dim)

    def logits(self, query_tokens: FloatArray, passage_tokens: FloatArray) -> FloatArray:
        """Returns one logit a passage from (N, dim) and (passages, M, dim), in the order given."""
        shapes = (query_tokens.shape, passage_tokens.shape[1:])
        if shapes != (self._query_shape, self._passage_shape):
            raise ValueError(
                f"tokens must be {self._query_shape} for the query and {self._passage_shape} a "
                f"passage, got {shapes[0]} and {shapes[1]}"
            )
        logits = np.empty(len(passage_tokens), np.float32)
        query = torch.as_tensor(query_tokens, device=self._device).expand(MICRO_BATCH, -1, -1)
        batch = np.zeros((MICRO_BATCH, *self._passage_shape), np.float32)
        with torch.inference_mode():
            for start in range(0, len(passage_tokens), MICRO_BATCH):
                rows = passage_tokens[start : start + MICRO_BATCH]
                batch[: len(rows)] = rows
                scored = self._head(query, torch.as_tensor(batch, device=self._device))
                logits[start : start + len(rows)] = scored[: len(rows)].cpu().numpy()
        return logits
