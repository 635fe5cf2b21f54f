"""The command answers --help before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from dipair_index.cli import cli
cli({arguments!r}, standalone_mode=False)
heavy = {{"torch", "transformers", "faiss", "tensorstore", "lmdb", "pyarrow", "numpy"}}
sys.exit(", ".join(sorted(heavy & set(sys.modules))) or 0)
"""


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    program = PROGRAM.format(arguments=["--help"])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_help_of_a_command_imports_nothing_heavy(tmp_path: Path) -> None:
    program = PROGRAM.format(arguments=["rerank", "--help"])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
