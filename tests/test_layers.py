"""Imports point one way: cli -> rerank -> stores -> dipair_index."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["dipair_index", "stores", "rerank", "cli"]
"""Lowest first; a parent never imports a child."""


def imported_modules(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    names = {node.module for node in froms if node.module}
    names |= {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
    return names | {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}


@pytest.mark.parametrize("layer", LAYERS)
def test_no_module_imports_a_higher_layer(layer: str) -> None:
    above = [f"dipair_index.{name}" for name in LAYERS[LAYERS.index(layer) + 1 :]]
    upward = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sorted((ROOT / layer).rglob("*.py"))
        for module in sorted(imported_modules(path))
        if any(module == name or module.startswith(f"{name}.") for name in above)
    ]
    assert not upward


def test_there_is_one_spelling_of_an_import() -> None:
    bare = [
        f"{path.relative_to(ROOT)} imports {module}"
        for layer in LAYERS
        for path in sorted((ROOT / layer).rglob("*.py"))
        for module in sorted(imported_modules(path))
        if module.split(".")[0] in LAYERS[1:]
    ]
    assert not bare


def test_torch_stays_out_of_the_stores() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "stores").rglob("*.py"))
        if imported_modules(path) & {"torch", "transformers"}
    ]
    assert not found
