"""The manifest of an index, the only file of its directory that is replaced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dipair_index.digests import checksum
from dipair_index.errors import DirectoryError
from dipair_index.files import write_whole
from dipair_index.records import PAIR
from dipair_index.stores.names import CUT

FORMAT_VERSION = 2
_KIND = "dipair-index"
MANIFEST = "manifest.json"
QUERY, PASSAGE = PAIR


@dataclass(frozen=True)
class PartInfo:
    """The manifest's entry of a part: passages stored together, in a folder never written again.

    `deleted_file` is the name of the file with the ids of its deleted passages, `deleted_digest`
    that file's digest. `files_digest` is the digest of `files.json`, which has the digests of all
    other files.
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
    """The settings that an index was built with, and its parts in the order of their passages.

    `generation` grows with every change. `store_url` is the URL below which the token embeddings of
    each part are stored; it is empty if they are in the parts' folders. `side` is the side of the
    tuple whose texts are stored, and `side_tokens` the tokens that are kept of each, for a side
    beyond query and passage. `long` says what became of passages that are longer than the model
    reads, which `truncated` counts, and `overlap` how many tokens their windows share.
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
    lexical: bool = False
    parts: tuple[PartInfo, ...] = ()
    generation: int = 1
    library_versions: Mapping[str, str] = field(default_factory=dict)
    created: str = field(
        default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds")
    )
    side: str = PASSAGE
    side_tokens: int = 0
    long: str = CUT
    overlap: int = 0

    @property
    def kept_tokens(self) -> int:
        """The tokens that are stored of each text: N of a query, M of a passage."""
        two = {QUERY: self.max_query_tokens, PASSAGE: self.max_passage_tokens}
        return two.get(self.side, self.side_tokens)

    @property
    def digest(self) -> str:
        """The checksum in the file, which tells every state of every index apart."""
        return checksum(json.dumps(self._values()).encode())

    @property
    def passages(self) -> int:
        """The number of passages in the index, without deleted ones."""
        return sum(part.live for part in self.parts)

    @property
    def truncated(self) -> int:
        """The number of passages that were truncated or split, including ones deleted since."""
        return sum(part.truncated for part in self.parts)

    @property
    def passages_digest(self) -> str:
        """The digest of the passages in order; empty if the index was changed since its build."""
        whole = len(self.parts) == 1 and not self.parts[0].deleted
        return self.parts[0].passages_digest if whole else ""

    @classmethod
    def read(cls, root: str | Path) -> Manifest:
        """Reads the manifest of the index at `root`.

        Raises `DirectoryError` if there is no such directory, if it is not an index, if any byte of
        the manifest was changed, or if it has another format version.
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
            raise DirectoryError(
                f"{root} is not an index: its {MANIFEST} belongs to another program. Give the "
                "directory that `dipair-index build` made"
            )
        _check_format_version(file, values.pop("format_version", None))
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
        """Writes the manifest atomically: readers see the old one or the new one.

        Raises `WriteError` if it cannot be written.
        """
        write_whole(Path(root) / MANIFEST, self._text().encode())

    def _values(self) -> dict[str, Any]:
        values = {"kind": _KIND, "format_version": FORMAT_VERSION, **asdict(self)}
        for later in fields(self):
            # as versions wrote it that knew of passages and vectors alone
            if (
                later.name in ("side", "side_tokens", "lexical", "long", "overlap")
                and values[later.name] == later.default
            ):
                del values[later.name]
        return values

    def _text(self) -> str:
        values = {**self._values(), "digest": self.digest}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def is_manifest(file: Path) -> bool:
    """Returns whether `file` is the manifest of an index, of any format version."""
    try:
        values = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("kind") == _KIND


def _damaged(file: Path, why: str) -> DirectoryError:
    return DirectoryError(
        f"{file} is damaged ({why}): restore it, or build the index again with --overwrite"
    )


def _check_format_version(file: Path, version: object) -> None:
    if not isinstance(version, int):
        raise _damaged(file, f"format_version is {version!r}")
    if version != FORMAT_VERSION:
        advice = "upgrade dipair-index" if version > FORMAT_VERSION else "an older one made it"
        raise DirectoryError(
            f"{file.parent} has format version {version}, but this version of dipair-index reads "
            f"{FORMAT_VERSION} ({advice}): build the index again with --overwrite"
        )
