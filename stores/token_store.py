"""The abstract class of token stores, and its simplest implementation, a dictionary."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from dipair_index.closing import Closing
from dipair_index.errors import MissingPassagesError, SettingsError, StoreError
from dipair_index.records import FloatArray
from dipair_index.stores.codecs import Codec, EncodedRows, open_codec

MAX_ID_BYTES = 511
"""The longest key of LMDB, and the limit of every store, so that stores are interchangeable."""


class TokenStore(Closing):
    """Stores the tokens of each passage, an array (tokens_per_passage, dim), under its id.

    All methods take batches. `get` returns float32 tokens, after the codec's rounding. A store is
    a context manager, which closes it. A subclass implements the abstract methods, without which
    it cannot be constructed, and passes the tests of `dipair_index.stores.testing`.

    Examples
    --------
    >>> from dipair_index import TokenStore
    >>> class Unfinished(TokenStore):
    ...     pass
    >>> sorted(Unfinished.__abstractmethods__)[-3:]
    ['put_encoded', 'stored_bytes', 'verify']
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        """The codec of the tokens, with tokens_per_passage and dim."""

    def put(self, ids: Sequence[str], tokens: FloatArray) -> None:
        """Stores tokens (len(ids), tokens_per_passage, dim); an id put again is replaced.

        Stores all tokens or none. Afterwards they survive the end of this process; a power cut may
        undo the last put as a whole, until the store is closed. The array is copied. Raises
        `SettingsError` if the shape is wrong, and `StoreError` if an id is empty or over 511 bytes,
        if a token is NaN or infinite, or if writing fails.
        """
        self.put_encoded(ids, self.codec.encode(validated_tokens(ids, tokens, self.codec)))

    def get(self, ids: Sequence[str]) -> FloatArray:
        """Returns tokens (len(ids), tokens_per_passage, dim) in the order of `ids`; ids may repeat.

        Raises `MissingPassagesError`, which names the ids that are absent.
        """
        return self.codec.decode(self.get_encoded(ids))

    @abstractmethod
    def put_encoded(self, ids: Sequence[str], rows: EncodedRows) -> None:
        """Like `put`, but takes uint8 rows (len(ids), bytes_per_passage) that the codec encoded.

        With `get_encoded`, passages are copied from one store to another without loss.
        """

    @abstractmethod
    def get_encoded(self, ids: Sequence[str]) -> EncodedRows:
        """Like `get`, but returns new uint8 rows (len(ids), bytes_per_passage) of the codec.

        Raises `MissingPassagesError`, which names the ids that are absent.
        """

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> None:
        """Deletes passages; raises `MissingPassagesError`, and deletes none, if an id is absent."""

    @abstractmethod
    def verify(self) -> list[str]:
        """Reads the whole store; returns a sentence for each damage, naming passages or files."""

    @abstractmethod
    def stored_bytes(self) -> int:
        """Returns the bytes on disk, or in the bucket."""

    @abstractmethod
    def __contains__(self, passage_id: object) -> bool: ...

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[str]:
        """Iterates over the ids in the order of their code points."""


class DictTokenStore(TokenStore):
    """A token store in memory, with which the tests compare the other stores."""

    def __init__(self, *, tokens_per_passage: int, dim: int, codec: str = "float32") -> None:
        super().__init__(open_codec(codec, tokens_per_passage=tokens_per_passage, dim=dim))
        self._rows: dict[str, npt.NDArray[np.uint8]] = {}

    def put_encoded(self, ids: Sequence[str], rows: EncodedRows) -> None:
        """Stores rows as `TokenStore.put_encoded` does."""
        validated_keys(ids)
        rows = validated_rows(ids, rows, self.codec).copy()
        self._rows.update(zip(ids, rows, strict=True))

    def get_encoded(self, ids: Sequence[str]) -> EncodedRows:
        """Returns rows as `TokenStore.get_encoded` does."""
        self._check_present(ids)
        rows = np.empty((len(ids), self.codec.bytes_per_passage), np.uint8)
        for index, passage_id in enumerate(ids):
            rows[index] = self._rows[passage_id]
        return rows

    def delete(self, ids: Sequence[str]) -> None:
        """Deletes passages as `TokenStore.delete` does."""
        self._check_present(ids)
        for passage_id in set(ids):
            del self._rows[passage_id]

    def verify(self) -> list[str]:
        """Returns an empty list: data in memory is not checked."""
        return []

    def stored_bytes(self) -> int:
        """Returns the bytes of the rows in memory."""
        return len(self) * self.codec.bytes_per_passage

    def close(self) -> None:
        """Does nothing."""

    def _check_present(self, ids: Sequence[str]) -> None:
        missing = dict.fromkeys(each for each in ids if each not in self._rows)
        if missing:
            raise MissingPassagesError.naming(missing, "the store")

    def __contains__(self, passage_id: object) -> bool:
        return passage_id in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._rows))


def validated_keys(ids: Sequence[str]) -> list[bytes]:
    """Returns the ids as keys, in UTF-8.

    Raises `StoreError`, which names the id, if one is empty, over 511 bytes, or not valid Unicode.
    """
    keys = []
    for passage_id in ids:
        try:
            key = passage_id.encode()
        except UnicodeEncodeError as error:
            raise StoreError(f"the passage id {passage_id!r} is not valid Unicode") from error
        if not key:
            raise StoreError("a passage id is empty: give every passage an id")
        if len(key) > MAX_ID_BYTES:
            raise StoreError(
                f"the passage id {passage_id[:40]!r}… is {len(key)} bytes long: "
                f"an id may have {MAX_ID_BYTES} bytes at most"
            )
        keys.append(key)
    return keys


def lookup_keys(ids: Sequence[str]) -> list[bytes]:
    """Returns the keys of ids to look up; an invalid id gets a key that no stored id has."""
    try:
        keys = list(map(str.encode, ids))
        if all(keys) and max(map(len, keys), default=0) <= MAX_ID_BYTES:
            return keys
    except UnicodeEncodeError:
        keys = [each.encode(errors="surrogatepass") for each in ids]
    # b"\xff" is not UTF-8
    return [key if 0 < len(key) <= MAX_ID_BYTES else b"\xff" for key in keys]


def validated_tokens(ids: Sequence[str], tokens: FloatArray, codec: Codec) -> FloatArray:
    """Returns the tokens as float32, (ids, tokens_per_passage, dim).

    Raises `SettingsError` if the shape is wrong, and `StoreError` if a number is not finite.
    """
    expected = (len(ids), codec.tokens_per_passage, codec.dim)
    if np.shape(tokens) != expected:
        raise SettingsError(
            f"tokens must be (ids, tokens_per_passage, dim) = {expected}, got {np.shape(tokens)}"
        )
    with np.errstate(over="ignore"):
        tokens = np.asarray(tokens, dtype=np.float32)
    wrong = np.flatnonzero(~np.isfinite(tokens).all(axis=(1, 2)))
    if len(wrong):
        raise StoreError(
            f"the tokens of passage {ids[int(wrong[0])]!r} hold NaN or infinity: "
            "nothing of this batch was stored"
        )
    return tokens


def validated_rows(ids: Sequence[str], rows: EncodedRows, codec: Codec) -> EncodedRows:
    """Returns the rows, uint8 (ids, bytes_per_passage).

    Raises `SettingsError` if their shape or type is wrong.
    """
    expected = (len(ids), codec.bytes_per_passage)
    if np.shape(rows) != expected or rows.dtype != np.uint8:
        raise SettingsError(
            f"rows must be uint8 (ids, bytes_per_passage) = {expected}, "
            f"got {rows.dtype} {np.shape(rows)}"
        )
    return rows
