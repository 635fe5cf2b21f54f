import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]


@pytest.fixture
def index(tmp_path: Path, built_index: Path) -> Path:
    return Path(shutil.copytree(built_index, tmp_path / "an.index"))


def test_a_whole_index_is_called_whole(run: Run, index: Path) -> None:
    result = run("verify", "--index-dir", index)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "whole: 6 passages in 1 part\n"
    run("delete", "--index-dir", index, "p1", "p2")
    assert run("verify", "--index-dir", index).stderr == "whole: 4 passages in 1 part\n"


@pytest.mark.parametrize("file", ["tokens/data.mdb", "passages/data.mdb", "ann/index.faiss"])
def test_a_flipped_byte_is_named_on_stdout(run: Run, index: Path, file: str) -> None:
    damaged = index / "parts" / "000001" / file
    data = bytearray(damaged.read_bytes())
    data[100] ^= 1
    damaged.write_bytes(data)
    result = run("verify", "--index-dir", index)

    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"{damaged} is not what was written between bytes 0 and {len(data) - 1:,}",
        f"part 000001 of {index} holds 6 passages: restore it from a copy, or build the index "
        "again with --overwrite",
    ]
    assert result.stderr == f"Error: {index} is not what was written: see above\n"


def test_lost_and_foreign_files_are_named(run: Run, index: Path) -> None:
    part = index / "parts" / "000001"
    (part / "ann" / "ids.npy").unlink()
    (part / "notes.txt").write_text("mine")
    result = run("verify", "--index-dir", index)

    assert result.exit_code == 1
    assert f"{part / 'ann' / 'ids.npy'} cannot be read: No such file or directory" in result.stdout
    assert f"{part / 'notes.txt'} does not belong to the index: move it away" in result.stdout


def test_progress_is_shown_where_it_takes_long(
    run: Run, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dipair_index.cli import _console as console

    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    said = run("verify", "--index-dir", index).stderr.splitlines()
    size = sum(file.stat().st_size for file in (index / "parts").rglob("*") if file.is_file())
    size -= (index / "parts" / "000001" / "files.json").stat().st_size
    assert said[-2].startswith(f"Verifying: {size:,} bytes, ")
