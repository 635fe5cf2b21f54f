"""`ann.json`: what describes an ANN index and where its vectors come from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dipair_index.errors import DirectoryError

ANN_FORMAT_VERSION = 1


@dataclass(frozen=True)
class VectorSource:
    """The embedder of the vectors and the digest of their passages (see `dipair_index.digests`)."""

    embedder: str = ""
    embedder_fingerprint: str = ""
    passages_digest: str = ""


@dataclass(frozen=True)
class AnnInfo:
    """The contents of `ann.json`, which describes the index in the same folder."""

    kind: str
    count: int
    dim: int
    source: VectorSource
    index_bytes: int
    format_version: int = ANN_FORMAT_VERSION

    @classmethod
    def read(cls, folder: str | Path) -> AnnInfo:
        """Reads `ann.json`; raises `DirectoryError` if it is absent, damaged or too new."""
        file = Path(folder) / "ann.json"
        try:
            values = json.loads(file.read_text("utf-8"))
            version = values["format_version"]
            if version == ANN_FORMAT_VERSION:
                return cls(**{**values, "source": VectorSource(**values["source"])})
        except FileNotFoundError as error:
            raise DirectoryError(f"there is no ANN index in {folder}: no ann.json") from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DirectoryError(f"{file} is damaged ({error}): build it again") from error
        raise DirectoryError(
            f"{file} has format version {version}, this version reads {ANN_FORMAT_VERSION}: "
            "upgrade dipair-index or build it again"
        )
