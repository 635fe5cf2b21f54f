"""The location of a store: a folder, or a URL of a key-value store that TensorStore knows."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from dipair_index.errors import DiPairError, StoreError
from dipair_index.files import utf8_path
from dipair_index.formats.places import s3_environment
from dipair_index.optional import require

CACHE_BYTES = 64 * 2**20
"""The cache of all stores of a process: recent chunks, and the offsets of chunks in shards."""

# by default TensorStore tries 32 times, and so waits a quarter of an hour for a dead endpoint
RETRIES = {"max_retries": 7, "initial_delay": "0.5s", "max_delay": "8s"}

_ADVICE = (
    ("unsupported URL scheme", "it may be a folder, file://, s3://, gs:// or memory://"),
    ("NoSuchBucket", "make the bucket first"),
    ("PERMISSION_DENIED", "check the credentials and what they allow"),
    ("UNAUTHENTICATED", "check the credentials"),
    ("retry attempts failed", "check the endpoint and the network, and run it again"),
    ("No space left", "make room on the disk and run it again"),
    ("File too large", "make room on the disk and run it again"),
    ("quota exceeded", "make room on the disk and run it again"),
    ("DATA_LOSS", "`verify` names the passages that are damaged"),
)


_forked = False
"""Whether this process was forked after TensorStore was imported, which cannot be used then."""


def _note_fork() -> None:
    global _forked
    _forked = _forked or "tensorstore" in sys.modules


os.register_at_fork(after_in_child=_note_fork)


class Location:
    """The objects under a folder or URL, which every error names.

    For S3, the endpoint is AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL and the region AWS_REGION or
    AWS_DEFAULT_REGION, if these are set; credentials are found as the AWS tools find them. Raises
    `MissingPackageError` if tensorstore is not installed, and `StoreError` if the location cannot
    be opened.
    """

    def __init__(self, location: str | Path) -> None:
        require("tensorstore", "a token store of TensorStore")
        import tensorstore

        self.name = str(location)
        with self.sentences("open"):
            self.spec = _spec(self.name)
            self.store = tensorstore.KvStore.open(self.spec, context=context()).result()

    def name_of(self, key: str) -> str:
        """Returns the path or URL of one object."""
        return f"{self.name.rstrip('/')}/{key}"

    def read(self, key: str) -> bytes | None:
        """Returns the object, or None if there is none."""
        found = self.store.read(key).result()
        return None if found.state == "missing" else found.value

    def numbers(self, prefix: str) -> list[int]:
        """Returns the numbers that follow `prefix` in the names of objects, sorted."""
        keys = [key.decode()[len(prefix) :] for key in self.store.list(_range(prefix)).result()]
        return sorted(int(key) for key in keys if key.isdigit())

    def delete(self, *prefixes: str) -> None:
        """Deletes the objects whose names have these prefixes, and the folder if empty then."""
        for prefix in prefixes:
            self.store.delete_range(_range(prefix)).result()
        if self.folder is not None:
            for lock in self.folder.glob("*.__lock"):
                # left by a killed writer
                lock.unlink(missing_ok=True)
            with suppress(OSError):
                self.folder.rmdir()

    @property
    def folder(self) -> Path | None:
        """The folder of the objects; None if they are not files."""
        return (
            Path(os.fsdecode(self.spec["path"].encode())) if self.spec["driver"] == "file" else None
        )

    @contextmanager
    def sentences(self, verb: str) -> Iterator[None]:
        """Converts TensorStore's errors, which are of many classes, to `StoreError`."""
        if _forked:
            raise StoreError(
                f"cannot {verb} the store at {self.name}: TensorStore cannot be used in a process "
                "that was forked after its first use: start processes with the method spawn or "
                "forkserver of multiprocessing, or choose the store lmdb"
            )
        try:
            yield
        except DiPairError:
            raise
        except (ValueError, KeyError, OSError, RuntimeError) as error:
            # the brackets at the end are for TensorStore's own developers
            text = re.sub(r" \[[\w ]+[=\d].*", "", str(error), flags=re.DOTALL)
            advice = next((f": {say}" for sign, say in _ADVICE if sign in str(error)), "")
            raise StoreError(f"cannot {verb} the store at {self.name}: {text}{advice}") from error


@cache
def context() -> Any:
    """Returns the context of all stores of this process: their cache, and the data of memory://."""
    import tensorstore

    return tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": CACHE_BYTES},
            "s3_request_retries": RETRIES,
            "gcs_request_retries": RETRIES,
        }
    )


def uncached_context() -> Any:
    """Returns the same context without a cache."""
    import tensorstore

    return tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}}, context())


def _spec(location: str) -> dict[str, Any]:
    import tensorstore

    spec: dict[str, Any]
    if "://" in location:
        spec = tensorstore.KvStore.Spec(location).to_json()
    else:
        spec = {"driver": "file", "path": utf8_path(Path(location).absolute())}
    if spec.get("path") and not spec["path"].endswith("/"):
        spec["path"] += "/"
    if spec["driver"] == "s3":
        spec |= _s3_settings()
    return spec


def _s3_settings() -> dict[str, Any]:
    """Returns the settings that TensorStore does not look up itself."""
    endpoint, region = s3_environment()
    settings: dict[str, Any] = {}
    if endpoint:
        settings["endpoint"] = endpoint
    if region:
        settings["aws_region"] = region
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        # the default is to try files and the network first, and to log each that fails
        settings["aws_credentials"] = {"type": "environment"}
    return settings


def _range(prefix: str) -> Any:
    import tensorstore

    return tensorstore.KvStore.KeyRange(prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))
