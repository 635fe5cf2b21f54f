"""Rows on disk are computed once."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from dipair_index.errors import WriteError
from dipair_index.formats.row_files import fill_rows


def test_rows_are_computed_once_for_a_key(tmp_path: Path) -> None:
    computed: list[int] = []

    def double(chunk: list[int]) -> np.ndarray:
        computed.extend(chunk)
        return np.array([[2.0 * value] for value in chunk])

    def fill(key: str) -> list[float]:
        array = fill_rows(
            tmp_path / "rows.npy", (5, 1), np.float32, key={"of": key},
            chunks=[[0, 1], [2, 3], [4]], compute=double, report=lambda count: None,
        )  # fmt: skip
        return array[:, 0].tolist()

    assert fill("a") == fill("a") == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert computed == [0, 1, 2, 3, 4]
    (tmp_path / "link.npy").hardlink_to(tmp_path / "rows.npy")
    fill("b")
    assert computed == [0, 1, 2, 3, 4] * 2
    assert (tmp_path / "link.npy").stat().st_ino != (tmp_path / "rows.npy").stat().st_ino
    (tmp_path / "rows.json").write_text("not json")
    fill("b")
    assert len(computed) == 15


def test_a_full_disk_is_said_before_rows_are_computed(tmp_path: Path, monkeypatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(WriteError, match=r"cannot write .*rows.npy: No space left on device"):
        fill_rows(
            tmp_path / "rows.npy", (1, 1), np.float32, key={}, chunks=[[0]],
            compute=lambda chunk: pytest.fail("computed"), report=lambda count: None,
        )  # fmt: skip
