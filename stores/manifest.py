"""The manifest of an index, the only file of its directory that is replaced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dipair_index.digests import checksum
from dipair_index.errors import DirectoryError
from dipair_index.files import write_whole

FORMAT_VERSION = 2
_KIND = "dipair-index"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class PartInfo:
    """The manifest's entry of a part: passages stored together, in a folder never written again.

    `deleted_file` names the ids of its passages that the index holds no longer. The digests are
    those of that file and of `files.json`, which holds the digests of all others.
    """

    name: str
    passages: int
    truncated: int
    passages_digest: str
    files_digest: str
    deleted: int = 0
    deleted_file: str = ""
    deleted_digest: str = ""

    @property
    def live(self) -> int:
        """Passages that are not deleted."""
        return self.passages - self.deleted


@dataclass(frozen=True)
class Manifest:
    """What an index was built with, and its parts in the order in which passages came.

    `generation` grows with every change. `store_url` is where token embeddings are kept, each
    part's in a place of its own; it is empty where they are in the parts' folders.
    """

    package_version: str
    model: str
    model_fingerprint: str
    max_query_tokens: int
    max_passage_tokens: int
    dim: int
    vector_dim: int
    store: str
    codec: str
    embedder: str
    embedder_fingerprint: str
    ann_kind: str
    seed: int
    store_url: str = ""
    parts: tuple[PartInfo, ...] = ()
    generation: int = 1
    library_versions: Mapping[str, str] = field(default_factory=dict)
    created: str = field(
        default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds")
    )

    @property
    def passages(self) -> int:
        """Passages that the index holds."""
        return sum(part.live for part in self.parts)

    @property
    def truncated(self) -> int:
        """Passages that were longer than the model reads, those deleted since included."""
        return sum(part.truncated for part in self.parts)

    @property
    def passages_digest(self) -> str:
        """The digest of the passages in their order; empty once the index was changed."""
        whole = len(self.parts) == 1 and not self.parts[0].deleted
        return self.parts[0].passages_digest if whole else ""

    @classmethod
    def read(cls, root: str | Path) -> Manifest:
        """The manifest of the index at `root`.

        DirectoryError, with what to do, where there is no such directory, where it is no
        index, where a single byte of the manifest was changed, and for another format version.
        """
        root = Path(root)
        file = root / MANIFEST
        if not root.is_dir():
            raise DirectoryError(
                f"there is no index at {root}: build one with `dipair-index build "
                f"--index-dir {root}`"
            )
        try:
            # not read_text, to which \r is \n
            text = file.read_bytes().decode()
            values = json.loads(text)
        except FileNotFoundError as error:
            raise DirectoryError(
                f"{root} is not an index: it has no {MANIFEST}. Give the directory that "
                "`dipair-index build` made"
            ) from error
        except (OSError, ValueError) as error:
            raise _damaged(file, str(error)) from error
        if not isinstance(values, dict) or values.pop("kind", None) != _KIND:
            raise DirectoryError(f"{root} is not an index: its {MANIFEST} is another's")
        _refuse_other_format(file, values.pop("format_version", None))
        try:
            values.pop("digest", None)
            parts = tuple(PartInfo(**part) for part in values.pop("parts"))
            manifest = cls(**values, parts=parts)
        except (KeyError, TypeError) as error:
            raise _damaged(file, str(error)) from error
        if manifest._text() != text:
            raise _damaged(file, "it is not what was written")
        return manifest

    def write(self, root: str | Path) -> None:
        """Writes the manifest in one step: readers see the old one or the new one."""
        write_whole(Path(root) / MANIFEST, self._text().encode())

    def _text(self) -> str:
        values: dict[str, Any] = {
            "kind": _KIND,
            "format_version": FORMAT_VERSION,
            **asdict(self),
        }
        values["digest"] = checksum(json.dumps(values).encode())
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def is_manifest(file: Path) -> bool:
    """Whether `file` is a manifest of an index, of any format version."""
    try:
        values = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("kind") == _KIND


def _damaged(file: Path, why: str) -> DirectoryError:
    return DirectoryError(
        f"{file} is damaged ({why}): restore it, or build the index again with --overwrite"
    )


def _refuse_other_format(file: Path, version: object) -> None:
    if not isinstance(version, int):
        raise _damaged(file, f"format_version is {version!r}")
    if version != FORMAT_VERSION:
        advice = "upgrade dipair-index" if version > FORMAT_VERSION else "an older one made it"
        raise DirectoryError(
            f"{file.parent} has format version {version}, but this version of dipair-index reads "
            f"{FORMAT_VERSION} ({advice}): build the index again with --overwrite"
        )
