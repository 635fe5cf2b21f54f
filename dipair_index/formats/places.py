"""Files in a folder or a bucket, by path or URL, through pyarrow's file systems."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dipair_index.errors import DiPairError, FormatError, WriteError
from dipair_index.files import utf8_path, write_whole
from dipair_index.words import reason

ATTEMPTS = 5
"""How often a request to S3 is made before it counts as failed: some seconds in all."""

_ADVICE = (
    ("ACCESS_DENIED", "check the credentials and what they allow"),
    ("INVALID_ACCESS_KEY_ID", "check the credentials"),
    ("SIGNATURE_DOES_NOT_MATCH", "check the credentials"),
    ("NO_SUCH_BUCKET", "make the bucket first"),
    ("Bucket does not exist", "make the bucket first"),
    ("NETWORK_CONNECTION", "check the endpoint and the network, then run the same command again"),
    ("Unrecognized filesystem", "give a path, or a URL of s3://, gs:// or file://"),
)


def s3_environment() -> tuple[str, str]:
    """Returns the endpoint and the region of S3 that the environment names, empty where unset.

    They are AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, and AWS_REGION or AWS_DEFAULT_REGION.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return endpoint or "", region or ""


class Place:
    """A file, or a folder of files, on a disk or in a bucket; every error names it.

    Credentials for a bucket are found as the AWS tools find them. Raises `FormatError` if the
    URL cannot be understood or the bucket refuses to be read.
    """

    def __init__(self, location: str | Path) -> None:
        self.name = str(location)
        with self.sentences("open"):
            self.files, self.path = _opened(self.name)

    @property
    def folder(self) -> Path | None:
        """The path on this machine's disks; None if it is in a bucket."""
        return Path(self.path) if self.files.type_name == "local" else None

    def sizes(self, *, absent_ok: bool = False) -> dict[str, int]:
        """Returns the bytes of each file below by its relative path, sorted; "" is the file itself.

        Raises `FormatError` if there is nothing here, unless `absent_ok`.
        """
        from pyarrow.fs import FileSelector, FileType

        with self.sentences("read"):
            here = self.files.get_file_info(self.path)
            if here.type == FileType.NotFound and absent_ok:
                return {}
            if here.type == FileType.NotFound:
                raise FormatError(f"there is no file or folder {self.name}: check the path")
            if here.is_file:
                return {"": here.size}
            found = self.files.get_file_info(FileSelector(self.path, recursive=True))
            start = len(self.path) + 1
            return {
                each.path[start:]: each.size for each in sorted(found, key=_path) if each.is_file
            }

    def name_of(self, name: str) -> str:
        """Returns the path or URL of a file below."""
        return f"{self.name.rstrip('/')}/{name}" if name else self.name

    def open(self, name: str) -> Any:
        """Opens a file below as a pyarrow `NativeFile` for reading at any offset."""
        with self.sentences("read", name):
            return self.files.open_input_file(self._path_of(name))

    def exists(self, name: str) -> bool:
        """Returns whether there is such a file below."""
        with self.sentences("read", name):
            return bool(self.files.get_file_info(self._path_of(name)).is_file)

    def read(self, name: str) -> bytes:
        """Returns the bytes of a file below; raises `FormatError` if it cannot be read."""
        with self.open(name) as file, self.sentences("read", name):
            return bytes(file.read())

    def write(self, name: str, data: bytes) -> None:
        """Writes a file below, which appears only when it is whole; raises `WriteError`."""
        if self.folder is not None:
            write_whole(self.folder / name, data, together=True)
            return
        with (
            self.sentences("write", name),
            self.files.open_output_stream(self._path_of(name)) as to,
        ):
            to.write(data)

    def delete(self, names: Iterable[str]) -> None:
        """Deletes files below."""
        for name in names:
            with self.sentences("write", name):
                self.files.delete_file(self._path_of(name))

    @contextmanager
    def sentences(self, verb: str, name: str = "") -> Iterator[None]:
        """Turns the errors of the file system to `FormatError`, or for "write" to `WriteError`."""
        import pyarrow as pa

        try:
            yield
        except DiPairError:
            raise
        except (OSError, pa.ArrowException) as error:
            number = getattr(error, "errno", None)
            text = os.strerror(number) if number else reason(error)
            advice = next((f": {say}" for sign, say in _ADVICE if sign in str(error)), "")
            kind: Callable[[str], DiPairError] = WriteError if verb == "write" else FormatError
            raise kind(f"cannot {verb} {self.name_of(name)}: {text}{advice}") from error

    def _path_of(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path


def _path(info: Any) -> str:
    return str(info.path)


def _opened(location: str) -> tuple[Any, str]:
    """Returns the file system of a location, and the path in it."""
    from pyarrow import fs

    if "://" not in location:
        return fs.LocalFileSystem(), utf8_path(Path(location).absolute())
    if not location.startswith("s3://"):
        files, path = fs.FileSystem.from_uri(location)
        return files, path.rstrip("/")
    endpoint, region = s3_environment()
    scheme, _, host = endpoint.rpartition("://")
    settings: dict[str, Any] = {"region": region} if region else {}
    if host:
        settings |= {"endpoint_override": host, "scheme": scheme or "https"}
    retry = fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
    return fs.S3FileSystem(**settings, retry_strategy=retry), location[len("s3://") :].rstrip("/")
