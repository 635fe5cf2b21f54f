"""Changes of the index by requests: one at a time, in a thread that neither reads nor scores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dipair_index.encoders.base import EncodedTexts, TextEncoder
from dipair_index.encoders.batches import Tokenised
from dipair_index.records import FloatArray, Passage
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.part_builder import BuildSummary
from dipair_index.rerank.serving.errors import RETRY_AFTER, ApiError
from dipair_index.rerank.serving.scoring import ENCODED_A_THREAD
from dipair_index.rerank.serving.slot import Lane, Steps
from dipair_index.threads import thread_count

T = TypeVar("T")
_Key = tuple[int, ...]


class Writer:
    """Runs changes of the index in the order in which they come.

    Encoding happens before, in the model's slot, so that searches go on between its batches; what
    is left is short.
    """

    def __init__(self, waiting: int) -> None:
        self._most = waiting + 1
        self._changes = 0  # counted in the event loop alone
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")

    async def run(self, change: Callable[[], T]) -> T:
        """Returns what `change` returns; raises `ApiError` (429) if too many wait.

        A change that has begun is finished, even if its client goes.
        """
        if self._changes >= self._most:
            raise ApiError(
                429, f"{self._most - 1} changes wait already: send this one again in a moment",
                code="queue_full", headers=RETRY_AFTER,
            )  # fmt: skip
        self._changes += 1
        try:
            loop = asyncio.get_running_loop()
            return await asyncio.shield(loop.run_in_executor(self._thread, change))
        finally:
            self._changes -= 1


class EncodedPassages(NamedTuple):
    """Passages, and what the encoder makes of each distinct text, by its token ids."""

    passages: Sequence[Passage]
    encoded: dict[_Key, tuple[FloatArray, FloatArray]]  # tokens (M, dim), vector (vector_dim,)


def encode_in_steps(passages: Sequence[Passage], encoder: TextEncoder) -> Steps[EncodedPassages]:
    """Encodes passages, and lets other requests go first between batches."""
    texts = [passage.full_text for passage in passages]
    different = list(dict.fromkeys(map(tuple, encoder.tokenised("passage", texts).ids)))
    encoded: dict[_Key, tuple[FloatArray, FloatArray]] = {}
    size = ENCODED_A_THREAD * thread_count()
    for start in range(0, len(different), size):
        yield Lane.LARGE
        batch = different[start : start + size]
        tokens, vectors = encoder.encode_tokenised(Tokenised("passage", [*map(list, batch)], 0))
        encoded |= zip(batch, zip(tokens, vectors, strict=True), strict=True)
    return EncodedPassages(passages, encoded)


def store(index: DiPairIndex, ready: EncodedPassages) -> BuildSummary:
    """Adds or replaces encoded passages, all or none; the next search finds them."""
    encoder: Any = _Prepared(index.encoder, ready.encoded)
    from dipair_index.rerank.build import add_passages  # what only reads needs no building

    summary = add_passages(ready.passages, index.path, encoder, update=True, disposable=True)
    index.refresh()
    return summary


class _Prepared:
    """An encoder that looks up what has been encoded before; the rest is the encoder's own."""

    def __init__(
        self, encoder: TextEncoder, encoded: dict[_Key, tuple[FloatArray, FloatArray]]
    ) -> None:
        self._encoder = encoder
        self._encoded = encoded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_tokenised(self, texts: Tokenised) -> EncodedTexts:
        """Returns the token embeddings and the vector of each text, in their order."""
        found = [self._encoded[tuple(ids)] for ids in texts.ids]
        tokens, vectors = zip(*found, strict=True)
        return EncodedTexts(np.stack(tokens), np.stack(vectors))
