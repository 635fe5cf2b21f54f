"""Benchmarks are run by hand: what they take from the package must still be there, and public."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
FILES = sorted(FOLDER.rglob("*.py"))


def imports_of_package(path: Path) -> list[tuple[str, str]]:
    """The modules of dipair_index that a file imports from, each with a name."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        if node.module.split(".")[0] == "dipair_index"
        for alias in node.names
    ]


def is_there(module: str, name: str) -> bool:
    try:
        if hasattr(import_module(module), name):
            return True
        import_module(f"{module}.{name}")
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_the_names_that_a_benchmark_imports_exist_and_are_public(path: Path) -> None:
    missing = [
        f"{module}.{name}"
        for module, name in imports_of_package(path)
        if name.startswith("_") or not is_there(module, name)
    ]
    assert missing == []


def test_benchmarks_do_import_from_the_package() -> None:
    modules = {module for path in FILES for module, _ in imports_of_package(path)}
    assert "dipair_index.rerank.index" in modules
