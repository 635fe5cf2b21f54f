"""The abstract class of scorers of a query's tokens against passages' tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

from dipair_index.errors import SettingsError
from dipair_index.records import FloatArray
from dipair_index.stores.codecs import Codec, EncodedRows
from dipair_index.stores.id_table import Integers

MICRO_BATCH = 50
"""The pairs that the head computes at once; 100 and 1,000 candidates need no padding."""


def micro_batches(count: int, size: int = MICRO_BATCH) -> Iterator[slice]:
    """Yields slices of at most `size` that cover `count` pairs."""
    return (slice(at, min(at + size, count)) for at in range(0, count, size))


@dataclass(frozen=True)
class PassageTokens:
    """The tokens of `count` passages, which are read by slices or by rows."""

    shape: tuple[int, ...]  # of one passage
    count: int
    read: Callable[[slice | Integers], FloatArray]


class PairSide(NamedTuple):
    """One side of many pairs: the encoded texts, each once, and the row of each pair's text."""

    rows: EncodedRows
    codec: Codec
    at: Integers  # (pairs,)

    def tokens(self, rows: Integers) -> FloatArray:
        """Returns the decoded tokens of some rows, (rows, kept, dim)."""
        return self.codec.decode(self.rows[rows])


class TokenScorer(ABC):
    """A head over numpy arrays; a query has tokens (N, dim), a passage (M, dim).

    Several queries, (queries, N, dim), give logits (queries, passages) instead of (passages,).
    """

    def __init__(self, query_shape: tuple[int, int], passage_shape: tuple[int, int]) -> None:
        self._query_shape, self._passage_shape = query_shape, passage_shape

    def logits(self, query_tokens: FloatArray, passage_tokens: FloatArray) -> FloatArray:
        """Returns logits (passages,) from tokens (N, dim) and (passages, M, dim).

        Raises `SettingsError` if the shapes are wrong.
        """
        shape, read = passage_tokens.shape[1:], passage_tokens.__getitem__
        return self._logits(query_tokens, PassageTokens(shape, len(passage_tokens), read))

    def encoded_logits(
        self, query_tokens: FloatArray, rows: EncodedRows, codec: Codec
    ) -> FloatArray:
        """Like `logits`, for passages encoded by `codec`, (passages, bytes_per_passage).

        They are decoded one micro-batch at a time, to save memory. Equal rows have equal logits.
        """
        shape = codec.tokens_per_passage, codec.dim
        passages = PassageTokens(shape, len(rows), lambda part: codec.decode(rows[part]))
        logits = self._logits(query_tokens, passages)
        # equal rows could differ by rounding, which depends on the position in a batch
        first: dict[bytes, int] = {}
        indexes = [first.setdefault(row.tobytes(), index) for index, row in enumerate(rows)]
        return logits[..., indexes]

    def pair_logits(self, queries: PairSide, passages: PairSide) -> FloatArray:
        """Returns logits (pairs,): the query of each pair against its own passage.

        They are decoded one micro-batch at a time, to save memory. Raises `SettingsError` if the
        shapes are wrong.
        """
        shapes = [(side.codec.tokens_per_passage, side.codec.dim) for side in (queries, passages)]
        self._check(shapes[0], shapes[1])
        return self._pair_logits(queries, passages)

    @abstractmethod
    def _pair_logits(self, queries: PairSide, passages: PairSide) -> FloatArray: ...

    @abstractmethod
    def _logits(self, query_tokens: FloatArray, passages: PassageTokens) -> FloatArray: ...

    def _check(self, query_shape: tuple[int, ...], passage_shape: tuple[int, ...]) -> None:
        if (query_shape, passage_shape) != (self._query_shape, self._passage_shape):
            raise SettingsError(
                f"tokens must be {self._query_shape} for the query and {self._passage_shape} a "
                f"passage, got {query_shape} and {passage_shape}"
            )


def work_through(
    slices: Iterable[slice], work: Callable[[slice], None], pool: Executor, threads: int
) -> None:
    """Calls `work` with each slice, in `threads` threads of `pool`.

    Unlike `pool.map`, it does not queue all slices in memory.
    """
    waiting, lock = iter(slices), Lock()

    def worker(_: int) -> None:
        while True:
            with lock:
                rows = next(waiting, None)
            if rows is None:
                return
            work(rows)

    list(pool.map(worker, range(threads)))
