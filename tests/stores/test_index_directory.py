import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dipair_index.errors import DirectoryError, StoreError
from dipair_index.stores.index_directory import Layout, PartLayout, WriterLock, check_target

FOREIGN = ["letter.txt", "parts/engine/bolt.step", "building/plan.dwg", "merging/lane.txt"]


def write(file: Path, content: str = "dear") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def test_the_files_of_an_index_have_their_places(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert layout.manifest == tmp_path / "manifest.json"
    assert layout.part("000004").root == tmp_path / "parts" / "000004"
    assert layout.part("000004").ann == tmp_path / "parts" / "000004" / "ann"
    assert layout.building.progress == tmp_path / "building" / "progress"


def test_the_tokens_of_a_part_are_in_its_folder_or_in_a_place_of_their_own_at_the_url(
    tmp_path: Path,
) -> None:
    here = PartLayout(tmp_path / "a" / "here")
    here.create("")
    assert here.tokens_location() == tmp_path / "a" / "here" / "tokens"
    places = set()
    for name in ("b", "c"):
        part = PartLayout(tmp_path / name)
        part.create("s3://bucket/prefix/")
        places.add(part.tokens_location())
        assert os.listdir(part.root) == ["tokens.url"]
        assert part.tokens_location() == part.tokens_location()
    assert len(places) == 2
    assert all(str(place).startswith("s3://bucket/prefix/") for place in places)
    assert {len(str(place)) for place in places} == {len("s3://bucket/prefix/") + 32}


def test_nothing_is_no_obstacle_nor_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty"):
        check_target(tmp_path / name, overwrite=False)
        assert not Layout(tmp_path / name).is_ours()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", [*FOREIGN, "manifest.json"])
def test_what_is_not_an_index_is_never_overwritten(
    tmp_path: Path, name: str, overwrite: bool
) -> None:
    write(tmp_path / "i" / name)
    with pytest.raises(DirectoryError, match="exists and is not an index, so it will not be"):
        check_target(tmp_path / "i", overwrite=overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_a_lost_link_and_anothers_manifest_are_never_overwritten(
    tmp_path: Path, overwrite: bool
) -> None:
    write(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    write(tmp_path / "app" / "manifest.json", '{"kind": "app"}')
    for name in ("file", "link", "app"):
        with pytest.raises(DirectoryError, match=f"{name} exists and is not an index"):
            check_target(tmp_path / name, overwrite=overwrite)


def test_a_finished_index_is_overwritten_only_when_asked(tmp_path: Path) -> None:
    for version in (1, 99):
        target = tmp_path / str(version)
        write(target / "manifest.json", f'{{"kind": "dipair-index", "format_version": {version}}}')
        write(target / "notes.txt")
        assert Layout(target).is_finished()
        with pytest.raises(DirectoryError, match="there is an index at .*: pass --overwrite"):
            check_target(target, overwrite=False)
        check_target(target, overwrite=True)


def test_an_unfinished_index_is_no_obstacle_and_a_damaged_one_may_be_overwritten(
    tmp_path: Path,
) -> None:
    write(tmp_path / "writer.lock", "process 1")
    write(tmp_path / "building" / "progress" / "progress.json")
    check_target(tmp_path, overwrite=False)
    write(tmp_path / "manifest.json.tmp", '{"ki')
    check_target(tmp_path, overwrite=False)
    write(tmp_path / "manifest.json", '{"ki')
    with pytest.raises(DirectoryError, match="there is an index at .*: pass --overwrite"):
        check_target(tmp_path, overwrite=False)
    check_target(tmp_path, overwrite=True)
    write(tmp_path / "thesis.tex")
    with pytest.raises(DirectoryError, match="is not an index"):
        check_target(tmp_path, overwrite=True)


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    first = WriterLock(tmp_path)
    with pytest.raises(
        DirectoryError,
        match=rf"is being changed by process {os.getpid()} on .* \(.*, since \d+-.*\): let it end",
    ):
        WriterLock(tmp_path)
    first.release()
    first.release()
    WriterLock(tmp_path).release()


def test_who_the_first_is_may_be_unreadable(tmp_path: Path) -> None:
    first = WriterLock(tmp_path)
    for content, name in ((b"", "another process"), (b"\xff 7", "\ufffd 7")):
        Layout(tmp_path).writer_lock.write_bytes(content)
        with pytest.raises(DirectoryError, match=f"is being changed by {name}: let it end"):
            WriterLock(tmp_path)
    first.release()


def test_a_name_that_is_no_unicode_can_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["dipair\udcff", "build"])
    WriterLock(tmp_path).release()
    assert r"(dipair\udcff build, since" in Layout(tmp_path).writer_lock.read_text()


HOLDER = """
import sys, time
from pathlib import Path
from dipair_index.stores.index_directory import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_writer_that_is_killed_leaves_no_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DirectoryError, match=f"changed by process {holder.pid} on"):
            WriterLock(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    WriterLock(tmp_path).release()
    assert f"process {os.getpid()} " in Layout(tmp_path).writer_lock.read_text()


def test_a_directory_that_cannot_be_written_can_still_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DirectoryError, match="absent was removed at this moment: run this"):
        WriterLock(tmp_path / "absent")

    def no_locks(handle: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("dipair_index.stores.index_directory.fcntl.flock", no_locks)
    with pytest.raises(StoreError, match="cannot be changed: No locks available"):
        WriterLock(tmp_path)
