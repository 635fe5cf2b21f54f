"""The provenance of a model: versions, commit and digests, to reproduce it."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pyarrow as pa

from dipair_index.digests import TextsDigest, short_digest

LIBRARIES = ("dipair-index", "torch", "transformers", "tokenizers", "numpy")


def library_versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that training uses, by name."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # a source tree that was never installed
            versions[name] = "unknown"
    return versions


def source_commit() -> str | None:
    """Returns the git commit of this package's source, with "-dirty" if files differ from it.

    Returns None if the package is not run from a git checkout.
    """
    here = Path(__file__)
    if _git("ls-files", "--error-unmatch", here.name) is None:
        return None  # installed, perhaps inside another project's checkout
    return _git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def texts_digest(texts: Mapping[str, Mapping[str, str]]) -> str:
    """Returns a digest of the ids and texts of all sides of a dataset, 16 hex digits."""
    digest = TextsDigest()
    for side, of_side in texts.items():
        digest.update([side], [str(len(of_side))])
        digest.update(of_side.keys(), of_side.values())
    return digest.hexdigest()


def labels_digest(labels: pa.Table, column: str = "logit") -> str:
    """Returns a digest of the ids and logits of a table of labels, 16 hex digits."""

    def pieces() -> Iterator[bytes]:
        for name in sorted(name for name in labels.column_names if name.endswith("_id")):
            ids = TextsDigest()
            ids.update(labels[name].to_pylist(), [""] * labels.num_rows)
            yield f"{name} {ids.hexdigest()} ".encode()
        for chunk in labels[column].chunks:
            values = chunk.flatten() if pa.types.is_fixed_size_list(chunk.type) else chunk
            yield np.asarray(values, np.float32).tobytes()

    return short_digest(pieces())
