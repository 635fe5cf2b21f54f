"""Commands that encode nothing do not wait for torch."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from dipair_index.cli import cli
cli(sys.argv[1:], standalone_mode=False)
sys.exit(", ".join({"torch", "transformers"} & set(sys.modules)) or 0)
"""


@pytest.mark.parametrize(
    "command",
    ["delete p1", "compact", "verify", "info", "info --estimate --passages 1000 --ann IVF8,PQ16"],
)
def test_torch_is_not_imported(command: str, built_index: Path, tmp_path: Path) -> None:
    from dipair_index.stores.index_writer import IndexWriter

    index = shutil.copytree(built_index, tmp_path / "dipair.index")
    with IndexWriter(index) as writer:
        writer.delete(["p6"])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
