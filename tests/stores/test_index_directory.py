import json
from dataclasses import replace
from pathlib import Path

import pytest

from dipair_index.errors import IndexDirectoryError, StoreError
from dipair_index.stores import index_directory
from dipair_index.stores.index_directory import (
    FORMAT_VERSION,
    Layout,
    Manifest,
    publish,
    refuse_target,
    working_directory,
)

MANIFEST = Manifest(
    package_version="0.1.0",
    model="default",
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
    passages=250,
    truncated=3,
    seed=0,
    library_versions={"numpy": "2.0"},
)


def make_index(root: Path, model: str = "default") -> Path:
    layout = Layout(root)
    for folder in (layout.tokens, layout.passages, layout.ann):
        folder.mkdir(parents=True)
    replace(MANIFEST, model=model).write(root)
    return root


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    make_index(tmp_path / "i")
    assert Manifest.read(tmp_path / "i") == MANIFEST
    assert MANIFEST.created.endswith("+00:00")
    assert MANIFEST.format_version == FORMAT_VERSION
    assert sorted(file.name for file in (tmp_path / "i").iterdir()) == [
        "ann",
        "manifest.json",
        "passages",
        "tokens",
    ]


def test_what_is_no_index_is_told_from_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(IndexDirectoryError, match=r"there is no index at .*i: build one with"):
        Manifest.read(tmp_path / "i")
    with pytest.raises(IndexDirectoryError, match=r"is not an index: it has no manifest\.json"):
        Manifest.read(tmp_path)
    (tmp_path / "manifest.json").write_text('{"name": "an app"}')
    with pytest.raises(IndexDirectoryError, match=r"is not an index: its manifest\.json is an"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": None}, r"\(no dim\)"),
        ({"dim": "256"}, r"\(dim should be int, got '256'\)"),
        ({"dim": True}, r"\(dim should be int, got True\)"),
        ({"codec": 8}, r"\(codec should be str, got 8\)"),
        ({"colour": "red"}, r"\(unknown colour\)"),
        ({"format_version": "one"}, r"\(format_version is 'one'\)"),
    ],
)
def test_a_damaged_manifest_is_told_with_the_field(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    file = Layout(make_index(tmp_path / "i")).manifest
    values = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    with pytest.raises(IndexDirectoryError, match=r"manifest\.json is damaged " + message):
        Manifest.read(tmp_path / "i")


@pytest.mark.parametrize("content", [b"", b'{"kind": "dipair-index", ', b"\xff\xfe"])
def test_a_manifest_that_is_no_json_is_damaged_and_may_be_overwritten(
    tmp_path: Path, content: bytes
) -> None:
    target = make_index(tmp_path / "i")
    Layout(target).manifest.write_bytes(content)
    with pytest.raises(IndexDirectoryError, match=r"manifest\.json is damaged .*--overwrite"):
        Manifest.read(target)
    with pytest.raises(IndexDirectoryError, match="pass --overwrite"):
        refuse_target(target, overwrite=False)
    publish(make_index(working_directory(target), "new"), target, overwrite=True)
    assert Manifest.read(target).model == "new"


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path) -> None:
    target = make_index(tmp_path / "i")
    values = json.loads(Layout(target).manifest.read_text())
    values.update(format_version=FORMAT_VERSION + 1, something="new")
    Layout(target).manifest.write_text(json.dumps(values))
    with pytest.raises(
        IndexDirectoryError,
        match=f"has format version {FORMAT_VERSION + 1}, but this version of dipair-index reads "
        f"up to {FORMAT_VERSION}: upgrade",
    ):
        Manifest.read(target)


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make_index(tmp_path / "i")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_directory.os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot write .*manifest\.json: .*No space left"):
        replace(MANIFEST, seed=7).write(target)
    assert Manifest.read(target).seed == 0


def test_an_index_is_built_beside_and_moved_into_place(tmp_path: Path) -> None:
    target = tmp_path / "dipair.index"
    working = working_directory(target)
    assert working == tmp_path / "dipair.index.building"
    refuse_target(target, overwrite=False)
    publish(make_index(working), target)
    assert Manifest.read(target) == MANIFEST
    assert [file.name for file in tmp_path.iterdir()] == ["dipair.index"]


def test_an_index_is_replaced_only_when_asked(tmp_path: Path) -> None:
    target = make_index(tmp_path / "i", "old")
    working = make_index(working_directory(target), "new")
    with pytest.raises(IndexDirectoryError, match=r"there is an index at .*i already: pass --ove"):
        publish(working, target)
    assert Manifest.read(target).model == "old"
    publish(working, target, overwrite=True)
    assert Manifest.read(target).model == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["i"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_an_index_is_never_overwritten(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("text")
    for name in ("home", "file"):
        target = tmp_path / name
        working = make_index(working_directory(target))
        with pytest.raises(IndexDirectoryError, match="exists and is not an index, so it will not"):
            publish(working, target, overwrite=overwrite)
        assert Manifest.read(working) == MANIFEST
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"
    assert (tmp_path / "file").read_text() == "text"


def test_an_empty_directory_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    publish(make_index(working_directory(tmp_path / "i")), tmp_path / "i")
    assert Manifest.read(tmp_path / "i") == MANIFEST


def test_an_unfinished_index_is_not_published(tmp_path: Path) -> None:
    working = make_index(tmp_path / "i.building")
    Layout(working).manifest.unlink()
    with pytest.raises(IndexDirectoryError, match="is not a finished index"):
        publish(working, tmp_path / "i")
    assert not (tmp_path / "i").exists()


def test_the_old_index_is_back_where_the_move_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make_index(tmp_path / "i", "old")
    working = make_index(working_directory(target), "new")
    rename = index_directory.os.rename

    def fail_for_the_new(source: Path, place: Path) -> None:
        if source == working:
            raise OSError(5, "Input/output error")
        rename(source, place)

    monkeypatch.setattr(index_directory.os, "rename", fail_for_the_new)
    with pytest.raises(IndexDirectoryError, match=r"cannot move .*building to .*Input/output"):
        publish(working, target, overwrite=True)
    assert Manifest.read(target).model == "old"
    assert Manifest.read(working).model == "new"


def test_an_interrupted_publish_is_mended_before_the_next(tmp_path: Path) -> None:
    target = tmp_path / "i"
    make_index(tmp_path / "i.replaced", "old")
    with pytest.raises(IndexDirectoryError, match="pass --overwrite"):
        refuse_target(target, overwrite=False)
    assert Manifest.read(target).model == "old"
    make_index(tmp_path / "i.replaced", "older")
    publish(make_index(working_directory(target), "new"), target, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["i"]
    assert Manifest.read(target).model == "new"


def test_another_directory_with_our_name_for_the_replaced_one_is_left_alone(
    tmp_path: Path,
) -> None:
    target = make_index(tmp_path / "i", "old")
    (tmp_path / "i.replaced").mkdir()
    (tmp_path / "i.replaced" / "letter.txt").write_text("dear")
    with pytest.raises(IndexDirectoryError, match=r"i\.replaced is in the way and is not an index"):
        publish(make_index(working_directory(target), "new"), target, overwrite=True)
    assert Manifest.read(target).model == "old"
    assert (tmp_path / "i.replaced" / "letter.txt").read_text() == "dear"


def test_a_link_to_an_index_is_followed(tmp_path: Path) -> None:
    make_index(tmp_path / "disk" / "i", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "i")
    working = working_directory(tmp_path / "link")
    assert working == tmp_path / "disk" / "i.building"
    publish(make_index(working, "new"), tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert Manifest.read(tmp_path / "disk" / "i").model == "new"
