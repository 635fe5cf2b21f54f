import os
from pathlib import Path

import pytest

from dipair_index.digests import checksum
from dipair_index.errors import StoreError
from dipair_index.stores import file_digests
from dipair_index.stores.file_digests import FILES, damages, read_lines, seal


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_digests, "BLOCK_BYTES", 10)


@pytest.fixture
def folder(quick_path: Path) -> Path:
    folder = quick_path / "part"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "empty").write_bytes(b"")
    (folder / "one").write_bytes(b"0123456789")
    (folder / "deep" / "er" / "three ü").write_bytes(bytes(range(25)))
    return folder


def test_a_folder_that_is_as_it_was_sealed_has_no_damage(folder: Path) -> None:
    digest = seal(folder)
    assert digest == checksum((folder / FILES).read_bytes())
    assert list(damages(folder, digest)) == []
    assert seal(folder) == digest


def test_every_changed_byte_is_found_and_told_to_the_block(folder: Path) -> None:
    digest = seal(folder)
    for name, size in (("one", 10), ("deep/er/three ü", 25)):
        whole = (folder / name).read_bytes()
        for place in range(size):
            changed = bytearray(whole)
            changed[place] ^= 1
            (folder / name).write_bytes(changed)
            first = place - place % 10
            assert list(damages(folder, digest)) == [
                f"{folder / name} is not what was written between bytes {first} and "
                f"{min(first + 10, size) - 1}"
            ]
        (folder / name).write_bytes(whole)


def test_a_changed_list_of_files_is_found(folder: Path) -> None:
    digest = seal(folder)
    whole = (folder / FILES).read_bytes()
    for place in range(len(whole)):
        (folder / FILES).write_bytes(whole[:place] + b"~" + whole[place + 1 :])
        assert list(damages(folder, digest)) == [
            f"{folder / FILES} is not what was written: which other files are damaged cannot "
            "be found out"
        ]
    (folder / FILES).unlink()
    assert list(damages(folder, digest)) == [
        f"{folder / FILES} cannot be read: No such file or directory"
    ]


def test_what_is_missing_short_long_or_new_is_named(folder: Path) -> None:
    digest = seal(folder)
    (folder / "one").unlink()
    (folder / "empty").write_bytes(b"x")
    os.truncate(folder / "deep" / "er" / "three ü", 15)
    (folder / "deep" / "more").write_bytes(b"")
    three = folder / "deep" / "er" / "three ü"
    assert list(damages(folder, digest)) == [
        f"{three} has 15 bytes instead of 25",
        f"{three} is not what was written between bytes 10 and 19",
        f"{folder / 'empty'} has 1 byte instead of 0",
        f"{folder / 'one'} cannot be read: No such file or directory",
        f"{folder / 'deep' / 'more'} does not belong to the index: move it away",
    ]


def test_what_is_left_out_and_what_came_later_is_no_damage(folder: Path) -> None:
    (folder / "progress").mkdir()
    (folder / "progress" / "count").write_bytes(b"1")
    digest = seal(folder, leaving_out=("progress",))
    (folder / "deleted-000002").write_bytes(b"")
    assert "progress" not in (folder / FILES).read_text()
    assert list(damages(folder, digest, known=("deleted-*", "progress/*"))) == []
    assert len(list(damages(folder, digest))) == 2


def test_all_bytes_read_are_reported(folder: Path) -> None:
    counts: list[int] = []
    assert list(damages(folder, seal(folder), report=counts.append)) == []
    assert counts == [10, 10, 5, 10]


def test_lines_are_read_if_they_are_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "ids"
    # line ends of other alphabets are no line ends here
    data = '"a"\n"\u2028\x85"\n"\\n"\n'.encode()
    file.write_bytes(data)
    assert read_lines(file, checksum(data)) == ["a", "\u2028\x85", "\n"]
    with pytest.raises(StoreError, match="ids is not what was written: restore it or build"):
        read_lines(file, checksum(b""))
    with pytest.raises(StoreError, match="cannot read .*other: No such file"):
        read_lines(tmp_path / "other", checksum(b""))
