import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipair_index.errors import DirectoryError, MissingPassagesError, StoreError, WriteError
from dipair_index.stores import index_writer
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.names import CODEC_NAMES
from dipair_index.stores.snapshot import Snapshot
from dipair_index.stores.verification import verify_index

PARTS = (["b", "a", "ccc"], ["ü", "日本"], ["zzz", "c", "d" * 511])
ALL = [each for part in PARTS for each in part]


@pytest.fixture
def toy(toy_index: Any, quick_path: Path) -> Any:
    return toy_index(quick_path / "i", *PARTS)


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def part_folders(toy: Any) -> list[str]:
    return sorted(os.listdir(toy.root / "parts"))


def assert_tidy(toy: Any) -> None:
    assert part_folders(toy) == [part.name for part in Manifest.read(toy.root).parts]
    assert sorted(os.listdir(toy.root)) == ["manifest.json", "parts", "writer.lock"]
    assert list(verify_index(toy.root)) == []


def test_deleted_passages_are_gone_and_the_others_as_they_were(toy: Any) -> None:
    with IndexWriter(toy.root) as writer:
        assert writer.delete(["a", "d" * 511, "a"]) == 2
        assert writer.delete([]) == 0
        assert writer.delete(["ccc"]) == 1
    assert toy.seen() == toy.expected(["b", "ü", "日本", "zzz", "c"])
    assert_tidy(toy)


def test_absent_passages_are_named_and_nothing_is_deleted(toy: Any) -> None:
    with IndexWriter(toy.root) as writer:
        writer.delete(["a"])
        before = files_of(toy.root)
        with pytest.raises(MissingPassagesError, match="not in the index: never, a$"):
            writer.delete(["b", "never", "a"])
        assert files_of(toy.root) == before
        assert writer.delete(["b", "never", "a"], ignore_missing=True) == 1
    assert toy.seen() == toy.expected(ALL[2:])


@pytest.mark.parametrize("store", ["lmdb", "tensorstore"])
@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_compact_makes_one_part_and_loses_nothing(
    toy_index: Any, quick_path: Path, store: str, codec: str
) -> None:
    toy = toy_index(quick_path / "i", *PARTS, store=store, codec=codec)
    counts: list[int] = []
    with IndexWriter(toy.root) as writer:
        writer.delete(["a", "ü"])
        left = [each for each in ALL if each not in ("a", "ü")]
        before = toy.seen()
        with Snapshot.open(toy.root) as now:
            rows = [part.tokens.get_encoded(part.live_ids()) for part in now.parts]
        assert writer.compact(counts.append)
        assert not writer.compact()
    assert counts == [2, 3, 6]
    assert before["ids"] == left
    assert toy.seen() == before
    with Snapshot.open(toy.root) as now:
        assert len(now.parts) == 1
        np.testing.assert_array_equal(now.parts[0].tokens.get_encoded(left), np.concatenate(rows))
        np.testing.assert_array_equal(now.parts[0].ann.vectors(), toy.vectors(left))
    assert_tidy(toy)


def test_an_index_that_lost_all_its_passages_has_no_part_once_compacted(toy: Any) -> None:
    with IndexWriter(toy.root) as writer:
        writer.delete(ALL)
        assert writer.compact()
        assert writer.current.parts == ()
        assert not writer.compact()
    assert toy.seen() == toy.expected([])
    assert_tidy(toy)
    toy.add(ALL[:2])
    assert toy.seen() == toy.expected(ALL[:2])


def test_one_part_that_lost_a_passage_can_be_compacted(toy_index: Any, quick_path: Path) -> None:
    toy = toy_index(quick_path / "i", ALL)
    with IndexWriter(toy.root) as writer:
        assert not writer.compact()
        writer.delete(["b"])
        assert writer.compact()
    assert Manifest.read(toy.root).parts[0].passages == len(ALL) - 1
    assert toy.seen() == toy.expected(ALL[1:])


def test_parts_stay_few_and_in_order_when_passages_are_added_one_by_one(
    toy_index: Any, quick_path: Path
) -> None:
    toy, ids, most = toy_index(quick_path / "i"), [], 0
    for number in range(30):
        ids.append(f"p{number}")
        with IndexWriter(toy.root) as writer:
            writer.merge_small()
        toy.add(ids[-1:])
        most = max(most, len(Manifest.read(toy.root).parts))
    assert most <= 4
    assert toy.seen() == toy.expected(ids)
    assert_tidy(toy)


def test_merging_leaves_large_parts_alone(
    toy_index: Any, quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_writer, "GROWTH", 2)
    toy = toy_index(quick_path / "i", ALL, ["x"], ["y"], ["z"])
    with IndexWriter(toy.root) as writer:
        first = writer.current.parts[0]
        writer.merge_small()
        assert [part.live for part in writer.current.parts] == [8, 3]
        assert writer.current.parts[0] == first
        writer.merge_small()
        assert [part.live for part in writer.current.parts] == [8, 3]
    assert toy.seen() == toy.expected([*ALL, "x", "y", "z"])


def test_counts_and_digests_go_with_the_passages(toy: Any) -> None:
    whole = Manifest.read(toy.root)
    assert (whole.passages, whole.truncated, whole.passages_digest) == (8, 3, "")
    with IndexWriter(toy.root) as writer:
        writer.compact()
    compacted = Manifest.read(toy.root)
    assert (compacted.passages, compacted.truncated) == (8, 3)
    assert len(compacted.passages_digest) == 16
    assert compacted.generation > whole.generation
    assert compacted.created == whole.created


def test_a_second_writer_is_refused(toy: Any) -> None:
    with IndexWriter(toy.root):
        with pytest.raises(DirectoryError, match=f"being changed by process {os.getpid()}"):
            IndexWriter(toy.root)
        assert toy.seen() == toy.expected(ALL)
    IndexWriter(toy.root).close()


def test_a_directory_that_is_no_index_is_not_touched(quick_path: Path) -> None:
    for name in ("notes.txt", "parts/000001/bolt.step", "building/plan.dwg", "merging/lane.txt"):
        file = quick_path / name.split("/")[0] / name
        file.parent.mkdir(parents=True)
        file.write_text("dear")
    before = files_of(quick_path)
    for folder in quick_path.iterdir():
        with pytest.raises(DirectoryError, match=r"is not an index: it has no manifest\.json"):
            IndexWriter(folder)
    with pytest.raises(DirectoryError, match="there is no index at .*absent: build one"):
        IndexWriter(quick_path / "absent")
    assert files_of(quick_path) == before
    assert not (quick_path / "absent").exists()


@pytest.mark.parametrize("content", [b"{", b'{"kind": "dipair-index", "format_version": 3}'])
def test_an_index_whose_manifest_cannot_be_read_is_not_touched(toy: Any, content: bytes) -> None:
    (toy.root / "manifest.json").write_bytes(content)
    (toy.root / "parts" / "000077").mkdir()
    before = files_of(toy.root)
    with pytest.raises(DirectoryError, match=r"is damaged|has format version 3"):
        IndexWriter(toy.root)
    with IndexWriter(toy.root, new=True) as writer:
        assert writer.manifest is None
    assert [*part_folders(toy)] == ["000002", "000004", "000006", "000077"]
    os.remove(toy.root / "writer.lock")
    before.pop(str(toy.root / "writer.lock"))
    assert files_of(toy.root) == before


def test_what_killed_writers_left_goes_with_the_next_one(toy: Any) -> None:
    parts = toy.root / "parts"
    (toy.root / "merging" / "tokens").mkdir(parents=True)
    shutil.copytree(parts / "000004", parts / "000050")
    (parts / "000002" / "progress").mkdir()
    (parts / "000002" / "deleted-000009.jsonl").write_text('"a"\n')
    (parts / "000002" / "deleted-000009.jsonl.tmp").write_text('"a')
    (toy.root / "manifest.json.tmp").write_text("{")
    with IndexWriter(toy.root) as writer:
        assert writer.delete(["b"]) == 1
    assert toy.seen() == toy.expected(ALL[1:])
    assert_tidy(toy)


def test_what_else_lies_among_the_parts_stays(toy: Any) -> None:
    (toy.root / "parts" / ".DS_Store").write_text("x")
    (toy.root / "parts" / "mine").mkdir()
    with IndexWriter(toy.root) as writer:
        writer.compact()
    assert part_folders(toy)[0] == ".DS_Store"
    assert part_folders(toy)[2:] == ["mine"]


def test_a_whole_part_that_no_manifest_names_is_given_back_to_be_gone_on_with(toy: Any) -> None:
    with IndexWriter(toy.root) as writer:
        (writer.layout.building.progress).mkdir(parents=True)
        part = toy.place(writer, ["new"])
        assert part_folders(toy)[-1] == part.name == "000008"
    with IndexWriter(toy.root) as writer:
        assert writer.layout.building.progress.is_dir()
        assert part_folders(toy) == ["000002", "000004", "000006"]
    assert toy.seen() == toy.expected(ALL)


def test_a_writer_that_fails_to_say_so_has_changed_all_or_nothing(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails once the manifest is in its place: the writer goes on from what is there."""
    with IndexWriter(toy.root) as writer:
        with monkeypatch.context() as patch:
            synced: list[int] = []

            def fail(path: Path) -> None:
                synced.append(1)
                # the first is that of the file of deleted ids
                if len(synced) == 2:
                    raise OSError(5, "Input/output error")

            patch.setattr("dipair_index.files.sync", fail)
            with pytest.raises(WriteError, match=r"cannot write .*manifest\.json: Input/output"):
                writer.delete(["a"])
        assert writer.manifest == Manifest.read(toy.root)
        first = writer.current.generation
        writer.delete(["b"])
        assert writer.current.generation == first + 1
    assert toy.seen() == toy.expected(ALL[2:])
    assert_tidy(toy)


def test_old_parts_that_cannot_be_removed_do_not_make_a_change_fail(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **more: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with IndexWriter(toy.root) as writer, monkeypatch.context() as patch:
        patch.setattr("dipair_index.stores.part.shutil.rmtree", refuse)
        assert writer.compact()
    assert len(part_folders(toy)) == 4
    assert toy.seen() == toy.expected(ALL)
    with monkeypatch.context() as patch:
        patch.setattr("dipair_index.stores.part.shutil.rmtree", refuse)
        with pytest.raises(StoreError, match="cannot be changed: Permission denied"):
            IndexWriter(toy.root)
    IndexWriter(toy.root).close()
    assert_tidy(toy)


def test_tokens_at_a_url_go_with_their_part(toy_index: Any, quick_path: Path) -> None:
    bucket = quick_path / "bucket"
    (bucket / "mine").mkdir(parents=True)
    (bucket / "mine" / "letter.txt").write_text("dear")
    toy = toy_index(
        quick_path / "i", *PARTS, store="tensorstore", store_url=f"file://{bucket}/tokens"
    )
    assert toy.seen() == toy.expected(ALL)
    assert len(os.listdir(bucket / "tokens")) == 3
    with IndexWriter(toy.root) as writer:
        writer.delete(["a"])
        assert writer.compact()
    assert toy.seen() == toy.expected(["b", *ALL[2:]])
    place = Path(str(writer.layout.part(part_folders(toy)[0]).tokens_location())[7:])
    kept = [path for path in (bucket / "tokens").rglob("*") if path.is_file()]
    assert kept
    assert {path.parent for path in kept} == {place}
    assert (bucket / "mine" / "letter.txt").read_text() == "dear"


def test_a_link_to_an_index_is_followed(toy: Any, quick_path: Path) -> None:
    (quick_path / "link").symlink_to(toy.root)
    with IndexWriter(quick_path / "link") as writer:
        writer.compact()
    assert (quick_path / "link").is_symlink()
    assert toy.seen() == toy.expected(ALL)
