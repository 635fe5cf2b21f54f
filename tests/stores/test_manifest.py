import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dipair_index.errors import DirectoryError, WriteError
from dipair_index.files import write_whole
from dipair_index.stores.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    PartInfo,
    is_manifest,
)

FIRST = PartInfo("000001", 250, 3, "12ab", "34cd")
SECOND = PartInfo("000003", 10, 1, "56ef", "78ab", 4, "deleted-000004.jsonl", "90cd")
WRITTEN = Manifest(
    package_version="0.1.0",
    model="/models/größer",
    model_fingerprint="0123456789abcdef",
    max_query_tokens=4,
    max_passage_tokens=8,
    dim=256,
    vector_dim=384,
    store="lmdb",
    codec="int8",
    embedder="model",
    embedder_fingerprint="0123456789abcdef",
    ann_kind="flat",
    seed=0,
    parts=(FIRST, SECOND),
    library_versions={"numpy": "2.0"},
)


def full(handle: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    WRITTEN.write(tmp_path)

    assert Manifest.read(tmp_path) == WRITTEN
    assert WRITTEN.created.endswith("+00:00")
    assert os.listdir(tmp_path) == [MANIFEST]
    assert json.loads((tmp_path / MANIFEST).read_bytes())["format_version"] == FORMAT_VERSION


def test_it_counts_what_is_live_and_every_text_that_was_cut() -> None:
    assert (FIRST.live, SECOND.live) == (250, 6)
    assert (WRITTEN.passages, WRITTEN.truncated) == (256, 4)
    assert replace(WRITTEN, parts=()).passages == 0


def test_its_passages_have_a_digest_until_the_index_is_changed() -> None:
    assert replace(WRITTEN, parts=(FIRST,)).passages_digest == "12ab"
    for parts in ((), (SECOND,), (FIRST, SECOND)):
        assert replace(WRITTEN, parts=parts).passages_digest == ""


# the last turns \n into \r, which is the same line end to who reads text
@pytest.mark.parametrize("mask", [1, 0x20, 0x80, ord("\n") ^ ord("\r")])
def test_a_single_changed_byte_anywhere_is_refused(quick_path: Path, mask: int) -> None:
    file = quick_path / MANIFEST
    WRITTEN.write(quick_path)
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
        with pytest.raises(DirectoryError):
            Manifest.read(quick_path)


def test_a_manifest_that_is_cut_short_or_longer_is_refused(quick_path: Path) -> None:
    file = quick_path / MANIFEST
    WRITTEN.write(quick_path)
    whole = file.read_bytes()
    for content in (*(whole[:end] for end in range(len(whole))), whole + b"\n", whole + b" "):
        file.write_bytes(content)
        with pytest.raises(DirectoryError, match=r"manifest\.json is damaged \(.*--overwrite"):
            Manifest.read(quick_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": None}, "missing 1 required positional argument: 'dim'"),
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
        ({"parts": None}, "parts"),
        ({"parts": [7]}, "must be a mapping"),
        ({"parts": [{"name": "1"}]}, "missing 4 required"),
        ({"format_version": "two"}, "format_version is 'two'"),
        ({"format_version": None}, "format_version is None"),
        ({"dim": 255}, "it is not what was written"),
        ({"seed": "0"}, "it is not what was written"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_told(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    WRITTEN.write(tmp_path)
    values = {**json.loads((tmp_path / MANIFEST).read_bytes()), **change}
    values = {name: value for name, value in values.items() if value is not None}
    (tmp_path / MANIFEST).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    with pytest.raises(DirectoryError, match=rf"manifest\.json is damaged \(.*{message}"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("version", "advice"),
    [(FORMAT_VERSION + 1, "upgrade dipair-index"), (1, "an older one made it")],
)
def test_another_format_is_refused_with_what_to_do(
    tmp_path: Path, version: int, advice: str
) -> None:
    # a newer one may hold what is not known here
    content = {"kind": "dipair-index", "format_version": version, "something": "else"}
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(
        DirectoryError,
        match=f"has format version {version}, but this version of dipair-index reads "
        rf"{FORMAT_VERSION} \({advice}\): build the index again with --overwrite",
    ):
        Manifest.read(tmp_path)
    assert is_manifest(tmp_path / MANIFEST)


def test_what_is_no_index_is_told_from_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match=r"there is no index at .*i: build one with"):
        Manifest.read(tmp_path / "i")
    with pytest.raises(DirectoryError, match=r"is not an index: it has no manifest\.json"):
        Manifest.read(tmp_path)
    for foreign in ('{"name": "an app"}', "[1]", '"dipair-index"'):
        (tmp_path / MANIFEST).write_text(foreign)
        with pytest.raises(DirectoryError, match=r"is not an index: its manifest\.json belongs to"):
            Manifest.read(tmp_path)
        assert not is_manifest(tmp_path / MANIFEST)


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITTEN.write(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"cannot write .*manifest.json: No space left.*Make room"):
        replace(WRITTEN, seed=7).write(tmp_path)
    assert Manifest.read(tmp_path) == WRITTEN


def test_a_file_is_written_whole_over_what_a_crash_left(tmp_path: Path) -> None:
    (tmp_path / "file.tmp").write_bytes(b"half of someth")
    (tmp_path / "file").write_bytes(b"old")
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]
