"""Token embeddings by passage id: the contract, and its simplest form, a dictionary."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from dipair_index.closing import Closing
from dipair_index.errors import MissingPassagesError, SettingsError, StoreError
from dipair_index.records import FloatArray
from dipair_index.stores.codecs import Codec, Rows, open_codec

MAX_ID_BYTES = 511
"""The longest key LMDB takes; every store keeps to it, so that one can replace another."""


class TokenStore(Closing):
    """Stores the tokens of each passage, an array (tokens_per_passage, dim), under its id.

    Batches only. What `get` returns is what the codec makes of what was put, in float32.
    A context manager, closed at its end. A subclass implements the abstract methods, without
    which it cannot be constructed, and passes the tests of `dipair_index.stores.testing`.

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
        """How the tokens are encoded; knows tokens_per_passage and dim."""

    def put(self, ids: Sequence[str], tokens: FloatArray) -> None:
        """Stores tokens (len(ids), tokens_per_passage, dim); an id put again is replaced.

        All or nothing. When it returns, it outlasts this process; a power cut may undo the last
        put, whole, until the store is closed. The array is copied. Raises `SettingsError` if the
        shape is wrong, and `StoreError` if an id is empty or over 511 bytes, if a token is NaN or
        infinite, or if writing fails.
        """
        self.put_encoded(ids, self.codec.encode(validated_tokens(ids, tokens, self.codec)))

    def get(self, ids: Sequence[str]) -> FloatArray:
        """Returns tokens (len(ids), tokens_per_passage, dim) in the order asked; ids may repeat.

        Raises `MissingPassagesError`, which names the ids that are absent.
        """
        return self.codec.decode(self.get_encoded(ids))

    @abstractmethod
    def put_encoded(self, ids: Sequence[str], rows: Rows) -> None:
        """As `put`, of uint8 rows (len(ids), bytes_per_passage) that this codec has encoded.

        With `get_encoded`, a copy from one store to another loses nothing.
        """

    @abstractmethod
    def get_encoded(self, ids: Sequence[str]) -> Rows:
        """As `get`, but the codec's uint8 rows (len(ids), bytes_per_passage): a new array."""

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> None:
        """Deletes `ids`, or nothing: raises `MissingPassagesError` if one is absent."""

    @abstractmethod
    def verify(self) -> list[str]:
        """Reads everything; returns a sentence for each damage, naming passages or files."""

    @abstractmethod
    def stored_bytes(self) -> int:
        """Returns the bytes on disk, or in the bucket."""

    @abstractmethod
    def __contains__(self, passage_id: object) -> bool: ...

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[str]:
        """Ids in the order of their characters' code points."""


class DictTokenStore(TokenStore):
    """A token store in memory: the oracle that the others are compared with."""

    def __init__(self, *, tokens_per_passage: int, dim: int, codec: str = "float32") -> None:
        super().__init__(open_codec(codec, tokens_per_passage=tokens_per_passage, dim=dim))
        self._rows: dict[str, npt.NDArray[np.uint8]] = {}

    def put_encoded(self, ids: Sequence[str], rows: Rows) -> None:
        """As `put`, of uint8 rows (len(ids), bytes_per_passage) that this codec has encoded."""
        validated_keys(ids)
        rows = validated_rows(ids, rows, self.codec).copy()
        self._rows.update(zip(ids, rows, strict=True))

    def get_encoded(self, ids: Sequence[str]) -> Rows:
        """As `get`, but the codec's uint8 rows (len(ids), bytes_per_passage): a new array."""
        self._refuse_missing(ids)
        rows = np.empty((len(ids), self.codec.bytes_per_passage), np.uint8)
        for place, passage_id in enumerate(ids):
            rows[place] = self._rows[passage_id]
        return rows

    def delete(self, ids: Sequence[str]) -> None:
        """Forgets `ids`; where one is absent, MissingPassagesError, and nothing is deleted."""
        self._refuse_missing(ids)
        for passage_id in set(ids):
            del self._rows[passage_id]

    def verify(self) -> list[str]:
        """Nothing to find: what is in memory is taken to be whole."""
        return []

    def stored_bytes(self) -> int:
        """Bytes of the rows in memory."""
        return len(self) * self.codec.bytes_per_passage

    def close(self) -> None:
        """Nothing to let go of."""

    def _refuse_missing(self, ids: Sequence[str]) -> None:
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
    """Returns the ids as keys; raises `StoreError`, which names the first that cannot be one."""
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
    """Returns the keys of ids to look for; what no store can hold gets a key that no id has."""
    try:
        keys = list(map(str.encode, ids))
        if all(keys) and max(map(len, keys), default=0) <= MAX_ID_BYTES:
            return keys
    except UnicodeEncodeError:
        keys = [each.encode(errors="surrogatepass") for each in ids]
    # b"\xff" is not UTF-8
    return [key if 0 < len(key) <= MAX_ID_BYTES else b"\xff" for key in keys]


def validated_tokens(ids: Sequence[str], tokens: FloatArray, codec: Codec) -> FloatArray:
    """The tokens as float32, if they have the store's shape and are finite."""
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


def validated_rows(ids: Sequence[str], rows: Rows, codec: Codec) -> Rows:
    """The rows, if they have the shape and type that the store's codec gives them."""
    expected = (len(ids), codec.bytes_per_passage)
    if np.shape(rows) != expected or rows.dtype != np.uint8:
        raise SettingsError(
            f"rows must be uint8 (ids, bytes_per_passage) = {expected}, "
            f"got {rows.dtype} {np.shape(rows)}"
        )
    return rows
