"""A file is the old one or the new one, and nothing else is left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dipair_index.errors import WriteError
from dipair_index.files import replacing, write_whole


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_what_fails_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, together: bool
) -> None:
    file = tmp_path / "note.json"
    write_whole(file, b"old", together=together)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(WriteError, match=r"cannot write .*note\.json: No space left on device\. "):
        write_whole(file, b"new", together=together)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
    monkeypatch.undo()
    write_whole(file, b"new", together=together)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_an_error_of_the_writer_is_its_own_and_leaves_nothing(tmp_path: Path) -> None:
    def half() -> None:
        with replacing(tmp_path / "a") as unfinished:
            unfinished.write_text("half")
            raise KeyError("b")

    with pytest.raises(KeyError):
        half()
    assert list(tmp_path.iterdir()) == []
