"""The index directory: which files it holds, what its manifest says, how it is put in place."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dipair_index.errors import IndexDirectoryError, StoreError

FORMAT_VERSION = 1
_KIND = "dipair-index"


@dataclass(frozen=True)
class Layout:
    """The files of an index directory."""

    root: Path

    @property
    def manifest(self) -> Path:
        """What the index is; written last."""
        return self.root / "manifest.json"

    @property
    def tokens(self) -> Path:
        """The token store."""
        return self.root / "tokens"

    @property
    def passages(self) -> Path:
        """The passage store."""
        return self.root / "passages"

    @property
    def ann(self) -> Path:
        """The ANN index over the passages' vectors."""
        return self.root / "ann"

    def is_finished(self) -> bool:
        """Whether there is a manifest, and it is one of ours."""
        try:
            values = json.loads(self.manifest.read_text("utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(values, dict) and values.get("kind") == _KIND

    def is_ours(self) -> bool:
        """Whether this may be overwritten: an index, be it one whose manifest is damaged."""
        parts = (self.tokens, self.passages, self.ann)
        return self.is_finished() or (
            self.manifest.is_file() and all(part.is_dir() for part in parts)
        )


@dataclass(frozen=True)
class Manifest:
    """What an index was built with and from."""

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
    passages: int
    truncated: int
    seed: int
    passages_digest: str = ""
    library_versions: dict[str, str] = field(default_factory=dict)
    created: str = field(
        default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds")
    )
    format_version: int = FORMAT_VERSION

    @classmethod
    def read(cls, root: str | Path) -> Manifest:
        """The manifest of the index at `root`.

        IndexDirectoryError, with what to do, where there is no such directory, where it is no
        index, where the manifest is damaged, and where a newer version has written it.
        """
        root = Path(root)
        file = Layout(root).manifest
        if not root.is_dir():
            raise IndexDirectoryError(
                f"there is no index at {root}: build one with `dipair-index build "
                f"--index-dir {root}`"
            )
        try:
            values = json.loads(file.read_text("utf-8"))
        except FileNotFoundError as error:
            raise IndexDirectoryError(
                f"{root} is not an index: it has no manifest.json. Give the directory that "
                "`dipair-index build` made"
            ) from error
        except (OSError, ValueError) as error:
            raise IndexDirectoryError(_damaged(file, str(error))) from error
        if not isinstance(values, dict) or values.pop("kind", None) != _KIND:
            raise IndexDirectoryError(f"{root} is not an index: its manifest.json is another's")
        _refuse_other_format(file, values.get("format_version"))
        return cls(**_checked(file, values))

    def write(self, root: str | Path) -> None:
        """Puts the manifest into `root` in one step: readers see the old one or the new one."""
        file = Layout(Path(root)).manifest
        part = file.with_name("manifest.json.tmp")
        text = json.dumps({"kind": _KIND, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"
        try:
            with part.open("w", encoding="utf-8") as target:
                target.write(text)
                target.flush()
                os.fsync(target.fileno())
            os.replace(part, file)
            _sync_directory(file.parent)
        except OSError as error:
            raise StoreError(f"cannot write {file}: {error}. Make room on the disk") from error


def _damaged(file: Path, why: str) -> str:
    return f"{file} is damaged ({why}): restore it, or build the index again with --overwrite"


def _refuse_other_format(file: Path, version: object) -> None:
    if not isinstance(version, int):
        raise IndexDirectoryError(_damaged(file, f"format_version is {version!r}"))
    if version > FORMAT_VERSION:
        raise IndexDirectoryError(
            f"{file.parent} has format version {version}, but this version of dipair-index reads "
            f"up to {FORMAT_VERSION}: upgrade dipair-index, or build the index again"
        )


def _checked(file: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Every field there, of its type, and no other."""
    types = {"str": str, "int": int, "dict[str, str]": dict}
    for each in fields(Manifest):
        if each.name not in values:
            raise IndexDirectoryError(_damaged(file, f"no {each.name}"))
        value, expected = values[each.name], types[str(each.type)]
        if not isinstance(value, expected) or isinstance(value, bool):
            why = f"{each.name} should be {each.type}, got {value!r}"
            raise IndexDirectoryError(_damaged(file, why))
    if unknown := sorted(values.keys() - {each.name for each in fields(Manifest)}):
        raise IndexDirectoryError(_damaged(file, f"unknown {', '.join(unknown)}"))
    return values


def working_directory(target: str | Path) -> Path:
    """Where an index for `target` is built: beside it, so that it can be moved into place."""
    return _beside(Path(target), ".building")


def refuse_target(target: str | Path, *, overwrite: bool) -> None:
    """Says before any work whether `publish` would refuse: IndexDirectoryError, or nothing.

    An empty directory is no obstacle. Only an index is ever overwritten. Where a `publish` was
    interrupted between its two steps, the old index is put back first.
    """
    target = Path(target)
    replaced = _beside(target, ".replaced")
    if not os.path.lexists(target) and Layout(replaced).is_ours():
        _move(replaced, target)
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    if not Layout(target).is_ours():
        raise IndexDirectoryError(
            f"{target} exists and is not an index, so it will not be overwritten: "
            "choose another --index-dir"
        )
    if not overwrite:
        raise IndexDirectoryError(
            f"there is an index at {target} already: pass --overwrite to replace it, or choose "
            "another --index-dir"
        )


def publish(working: str | Path, target: str | Path, *, overwrite: bool = False) -> None:
    """Moves the finished index `working` to `target`; the old one stays until then.

    Refuses what `refuse_target` refuses, and a `working` without manifest. If moving fails, the
    old index is back in its place.
    """
    working, target = Path(working), Path(target)
    if not Layout(working).is_finished():
        raise IndexDirectoryError(f"{working} is not a finished index: it has no manifest")
    refuse_target(target, overwrite=overwrite)
    place = Path(os.path.realpath(target))
    replaced = _beside(target, ".replaced")
    if os.path.lexists(replaced):
        _remove_left_over(replaced)
    if place.exists():
        _move(place, replaced)
    try:
        _move(working, place)
    except IndexDirectoryError:
        if replaced.exists():
            _move(replaced, place)
        raise
    _sync_directory(place.parent)
    # a reader of the old index keeps its open files; what cannot be removed is no loss
    shutil.rmtree(replaced, ignore_errors=True)


def _beside(target: Path, suffix: str) -> Path:
    # a link is followed, so that the move stays on one disk
    place = Path(os.path.realpath(target))
    return place.with_name(place.name + suffix)


def _remove_left_over(replaced: Path) -> None:
    """An old index that an interrupted `publish` could not remove any more."""
    if not Layout(replaced).is_ours():
        raise IndexDirectoryError(f"{replaced} is in the way and is not an index: move it away")
    try:
        shutil.rmtree(replaced)
    except OSError as error:
        raise IndexDirectoryError(f"cannot remove {replaced}: {error}") from error


def _move(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        raise IndexDirectoryError(f"cannot move {source} to {target}: {error}") from error


def _sync_directory(folder: Path) -> None:
    """Makes a rename last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
