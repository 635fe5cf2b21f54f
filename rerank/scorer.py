"""What scores a query's tokens against passages' tokens, whichever library computes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from threading import Lock

from dipair_index.errors import SettingsError
from dipair_index.records import FloatArray
from dipair_index.stores.codecs import Codec, EncodedRows

MICRO_BATCH = 50
"""Pairs that go through the head at once: 100 and 1,000 candidates leave no row empty."""


def micro_batches(count: int, size: int = MICRO_BATCH) -> Iterator[slice]:
    """The parts of so many pairs."""
    return (slice(at, min(at + size, count)) for at in range(0, count, size))


@dataclass(frozen=True)
class Passages:
    """Tokens of passages, which are read a part at a time."""

    shape: tuple[int, ...]  # of one
    count: int
    read: Callable[[slice], FloatArray]


class Scorer(ABC):
    """The head over numpy arrays; (N, dim) of a query, (M, dim) of a passage."""

    def __init__(self, query_shape: tuple[int, int], passage_shape: tuple[int, int]) -> None:
        self._query_shape, self._passage_shape = query_shape, passage_shape

    def logits(self, query_tokens: FloatArray, passage_tokens: FloatArray) -> FloatArray:
        """Returns one logit a passage from (N, dim) and (passages, M, dim), in the order given.

        Raises `ValueError` for other shapes.
        """
        shape, read = passage_tokens.shape[1:], passage_tokens.__getitem__
        return self._logits(query_tokens, Passages(shape, len(passage_tokens), read))

    def encoded_logits(
        self, query_tokens: FloatArray, rows: EncodedRows, codec: Codec
    ) -> FloatArray:
        """As `logits`, from passages as `codec` encoded them: (passages, bytes_per_passage).

        They are decoded a micro-batch at a time: all of them never are in memory as float32.
        Equal rows have equal logits.
        """
        shape = codec.tokens_per_passage, codec.dim
        passages = Passages(shape, len(rows), lambda part: codec.decode(rows[part]))
        logits = self._logits(query_tokens, passages)
        # rounding depends on the place in a batch
        first: dict[bytes, int] = {}
        places = [first.setdefault(row.tobytes(), place) for place, row in enumerate(rows)]
        return logits[..., places]

    @abstractmethod
    def _logits(self, query_tokens: FloatArray, passages: Passages) -> FloatArray: ...

    def _check(self, query_shape: tuple[int, ...], passages: Passages) -> None:
        if (query_shape, passages.shape) != (self._query_shape, self._passage_shape):
            raise SettingsError(
                f"tokens must be {self._query_shape} for the query and {self._passage_shape} a "
                f"passage, got {query_shape} and {passages.shape}"
            )


def work_through(
    parts: Iterable[slice], work: Callable[[slice], None], pool: Executor, threads: int
) -> None:
    """Does the work on each part, a thread one at a time.

    Unlike those of `pool.map`, a million pairs that wait take no memory.
    """
    waiting, lock = iter(parts), Lock()

    def worker(_: int) -> None:
        while True:
            with lock:
                part = next(waiting, None)
            if part is None:
                return
            work(part)

    list(pool.map(worker, range(threads)))
