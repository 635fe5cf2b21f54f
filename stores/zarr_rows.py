"""An append-only, sharded zarr 3 array of rows of bytes, read and written by TensorStore.

The array is declared as long as possible; shards and chunks without data do not exist on disk.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from dipair_index.errors import StoreError
from dipair_index.stores.codecs import Codec, EncodedRows, open_codec
from dipair_index.stores.id_table import Integers
from dipair_index.stores.locations import Location, context, uncached_context
from dipair_index.stores.shard_files import ShardFiles

FORMAT_VERSION = 1

SHARD_ROWS = 2048
"""The rows of a shard, which is one object; a build puts as many passages at a time."""

CHUNK_BYTES = 24 * 1024
"""The largest chunk, which TensorStore reads and verifies as a whole. Measured with rows of 2 KB in
chunks of 1, 4, 8 and 16 rows: reading 1,000 random rows of 100,000 takes 9, 10, 14 and 20 ms, and
writing 2,048 rows takes 50, 8, 3 and 2 ms of computing. Hence 8 rows."""

KIND = "dipair_index"
METADATA = "zarr.json"
SHARDS = "c."

_MOST_BYTES = 2**62
"""The largest array in bytes: TensorStore has 63 bits for the offset of a row."""

_READ_AHEAD = 4
_SIGNS_OF_DAMAGE = ("DATA_LOSS", "NOT_FOUND", "FAILED_PRECONDITION", "OUT_OF_RANGE")


class ZarrRows:
    """The rows (rows, bytes_per_passage) at a location. Threads may share it.

    Creates the array if it is absent, unless `readonly`. Raises `StoreError` if an array to be read
    is absent, if it has other settings or a newer format, or if it belongs to another program.
    """

    def __init__(self, location: Location, codec: Codec, *, readonly: bool) -> None:
        self._location = location
        self._settings = _ensure_settings(location, codec, readonly=readonly)
        self._chunk_rows: int = self._settings["chunk_rows"]
        self.shard_rows: int = self._settings["shard_rows"]
        self._array = self._open(context())
        self._files: ShardFiles | None = None
        if location.folder is not None and hasattr(os, "preadv"):
            self._files = ShardFiles(
                location.folder,
                shard_rows=self.shard_rows,
                chunk_rows=self._chunk_rows,
                width=codec.bytes_per_passage,
            )
        self._lock = threading.Lock()
        # random, so that two writers, or one after a killed one, never write the same shard
        self._next_shard = secrets.randbelow(self._array.shape[0] // self.shard_rows // 2)

    def _open(self, tensorstore_context: Any) -> Any:
        import tensorstore

        spec = {
            "driver": "zarr3",
            "kvstore": self._location.spec,
            "metadata": _metadata(self._settings),
            # it has been read and checked already
            "assume_metadata": True,
            # the cache stays valid, since no chunk is written twice
            "recheck_cached_data": False,
            # zeros are stored like other data, so that missing chunks are never read as zeros
            "store_data_equal_to_fill_value": True,
            "fill_missing_data_reads": False,
        }
        return tensorstore.open(spec, context=tensorstore_context).result()

    def append(self, rows: EncodedRows) -> int:
        """Writes rows into new shards; returns the index of the first row."""
        with self._lock:
            first = self._next_shard * self.shard_rows
            self._next_shard += -(-len(rows) // self.shard_rows)
        self._array[first : first + len(rows)].write(rows).result()
        return first

    def take(self, rows: Integers) -> EncodedRows:
        """Returns the given rows in a new array; raises `ValueError` if one cannot be read."""
        import tensorstore

        if not len(rows):
            # TensorStore would read the first chunk
            return np.empty((0, self._settings["bytes_per_passage"]), np.uint8)
        if self._files is not None:
            # if that fails, TensorStore reads the rows, or raises the error
            with suppress(OSError, ValueError):
                return self._files.take(rows)
        with tensorstore.Batch() as batch:
            future = self._array[rows].read(batch=batch)
        taken: EncodedRows = future.result()
        return taken

    def close(self) -> None:
        """Closes the files, so that their disk space is freed when they are deleted."""
        if self._files is not None:
            self._files.close()

    def drop(self, shards: Sequence[int]) -> None:
        """Deletes shards without live rows; errors are ignored."""
        futures = [self._location.store.write(_shard_name(shard), None) for shard in shards]
        for future in futures:
            future.exception()

    def metadata_damage(self) -> list[str]:
        """Reads the metadata again; returns a sentence if it is damaged."""
        if self._location.read(METADATA) == _encoded(self._settings):
            return []
        return [_damaged(self._location)]

    def damaged_rows(self, written: Mapping[int, int]) -> Iterator[tuple[int, list[range]]]:
        """Reads the first `written[shard]` rows of each shard.

        Yields each damaged shard with the ranges of its damaged rows.
        """
        array = self._open(uncached_context())
        shards = list(written)
        for start in range(0, len(shards), _READ_AHEAD):
            batch = shards[start : start + _READ_AHEAD]
            futures = [_reading(array, self._rows_of(shard, written[shard])) for shard in batch]
            for shard, future in zip(batch, futures, strict=True):
                if _is_damage(future.exception()):
                    rows = self._rows_of(shard, written[shard])
                    chunks = [
                        rows[at : at + self._chunk_rows]
                        for at in range(0, len(rows), self._chunk_rows)
                    ]
                    yield (
                        shard,
                        [each for each in chunks if _is_damage(_reading(array, each).exception())],
                    )

    def _rows_of(self, shard: int, count: int) -> range:
        return range(shard * self.shard_rows, shard * self.shard_rows + count)

    def name_of(self, shard: int) -> str:
        """Returns the path or URL of a shard's object."""
        return self._location.name_of(_shard_name(shard))

    def stored_bytes(self, written: Mapping[int, int]) -> int:
        """Computes the bytes of the objects, since TensorStore lists names without sizes."""
        # each chunk ends with a checksum of 4 bytes, and so does the index, of 16 bytes per chunk
        index = self.shard_rows // self._chunk_rows * 16 + 4
        chunk: int = self._chunk_rows * self._settings["bytes_per_passage"] + 4
        shards = sum(-(-rows // self._chunk_rows) * chunk + index for rows in written.values())
        return shards + len(_encoded(self._settings))


def _reading(array: Any, rows: range) -> Any:
    return array[rows.start : rows.stop].read()


def _is_damage(error: BaseException | None) -> bool:
    """Returns whether an error is damage of the data; raises other errors, as of the network."""
    if error is not None and not str(error).startswith(_SIGNS_OF_DAMAGE):
        raise error
    return error is not None


def _ensure_settings(location: Location, codec: Codec, *, readonly: bool) -> dict[str, Any]:
    """Writes the metadata of a new array, or checks those of an existing one; returns the settings.

    Raises `StoreError` if they differ from the codec's, or are damaged.
    """
    metadata = location.read(METADATA)
    if metadata is not None:
        made = _settings_in(location, metadata)
        asked = _settings(codec)
        if _words(made) != _words(asked):
            raise StoreError(
                f"the store at {location.name} holds {_words(made)}, but {_words(asked)} was "
                "asked for: open it with its own settings, or build another"
            )
        return made
    if readonly:
        raise StoreError(f"there is no store at {location.name}: build one first")
    settings = _settings(codec)
    location.store.write(METADATA, _encoded(settings)).result()
    return settings


def _settings(
    codec: Codec, shard_rows: int | None = None, chunk_rows: int | None = None
) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "codec": codec.name,
        "tokens_per_passage": codec.tokens_per_passage,
        "dim": codec.dim,
        "bytes_per_passage": codec.bytes_per_passage,
        "shard_rows": shard_rows or SHARD_ROWS,
        "chunk_rows": chunk_rows or _chunk_rows(codec.bytes_per_passage),
    }


def _settings_in(location: Location, metadata: bytes) -> dict[str, Any]:
    try:
        attributes = json.loads(metadata)["attributes"]
        if KIND not in attributes:
            raise StoreError(
                f"{location.name} holds a zarr array of another program: choose another location"
            )
        settings: dict[str, Any] = attributes[KIND]
        version = settings["format_version"]
        if version > FORMAT_VERSION:
            raise StoreError(
                f"the store at {location.name} has format {version}, but this version of "
                f"dipair-index reads {FORMAT_VERSION}: install a newer one"
            )
        sizes = {name: settings[name] for name in ("tokens_per_passage", "dim")}
        codec = open_codec(settings["codec"], **sizes)
        settings = _settings(codec, settings["shard_rows"], settings["chunk_rows"])
        whole = _encoded(settings) == metadata
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(_damaged(location)) from error
    if not whole:
        raise StoreError(_damaged(location))
    return settings


def _damaged(location: Location) -> str:
    name = location.name_of(METADATA)
    return f"{name} is damaged or of another program: restore it, or build the store again"


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={settings[name]}" for name in ("codec", "tokens_per_passage", "dim"))


def _chunk_rows(width: int) -> int:
    """Returns the rows of a chunk, a power of two, so that chunks fill a shard exactly."""
    return min(SHARD_ROWS, 1 << (max(1, CHUNK_BYTES // width).bit_length() - 1))


def _rows(width: int, shard_rows: int) -> int:
    """Returns the length of the array in rows, whole shards of it."""
    return _MOST_BYTES // width // shard_rows * shard_rows


def _encoded(settings: Mapping[str, Any]) -> bytes:
    """Returns the only valid metadata of these settings."""
    return json.dumps(_metadata(settings), sort_keys=True).encode()


def _metadata(settings: Mapping[str, Any]) -> dict[str, Any]:
    width = settings["bytes_per_passage"]
    raw = {"name": "bytes"}
    little_endian = {"name": "bytes", "configuration": {"endian": "little"}}
    checksum = {"name": "crc32c"}
    sharding = {
        "chunk_shape": [settings["chunk_rows"], width],
        "codecs": [raw, checksum],
        "index_codecs": [little_endian, checksum],
    }
    shard_grid = {"chunk_shape": [settings["shard_rows"], width]}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [_rows(width, settings["shard_rows"]), width],
        "data_type": "uint8",
        "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": shard_grid},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {KIND: dict(settings)},
    }


def _shard_name(shard: int) -> str:
    return f"{SHARDS}{shard}.0"
