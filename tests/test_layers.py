"""Imports point one way through the rooms, and never in a circle.

Run as a program, it prints the figures of the drawing: `python tests/test_layers.py [ROOT]`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("dipair_index", "stores", "rerank", "cli")
"""Where the source stands; installed, the last three are subpackages of the first."""
ORDER = (
    ("ground",),
    ("formats", "evaluation", "models"),
    ("onnx",),
    ("encoders",),
    ("data",),
    ("training",),
    ("stores",),
    ("rerank",),
    ("cli",),
)
"""The rooms, lowest first; those of one line do not import one another."""
MOST_SIDE_BY_SIDE = 16

Graph = Mapping[str, frozenset[str]]
"""What each module or room imports."""


def files_of(root: Path) -> dict[str, Path]:
    """The files by the name that they are imported by."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            parts = parts if folder == "dipair_index" else ("dipair_index", *parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def names_imported(path: Path) -> set[str]:
    """All modules and names in modules that a file imports, in functions too."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {
        f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def imports_of(root: Path) -> Graph:
    """The modules that each module imports, without the lazy front door and `python -m`."""
    files = files_of(root)
    for door in ("dipair_index", "dipair_index.__main__"):
        files.pop(door, None)

    def modules(path: Path) -> set[str]:
        # a name is that of a module, or of something in one
        names = names_imported(path)
        return {name if name in files else name.rpartition(".")[0] for name in names} & files.keys()

    return {name: frozenset(modules(path) - {name}) for name, path in files.items()}


def room_of(module: str) -> str:
    """The folder or the file inside `dipair_index` to which a module belongs."""
    return module.split(".")[1]


def rooms_of(imports: Graph) -> Graph:
    """The rooms that each room imports."""
    rooms: dict[str, set[str]] = {}
    for module, imported in imports.items():
        rooms.setdefault(room_of(module), set()).update(map(room_of, imported))
    return {room: frozenset(others - {room}) for room, others in rooms.items()}


def circles_of(graph: Graph) -> list[list[str]]:
    """The sets of nodes that reach one another, of two nodes or more."""
    reached: dict[str, set[str]] = {}
    for node in graph:
        seen: set[str] = set()
        waiting = [node]
        while waiting:
            new = graph.get(waiting.pop(), frozenset()) - seen
            seen |= new
            waiting += new
        reached[node] = seen
    found = {
        tuple(sorted(other for other in reached[node] if node in reached.get(other, ())))
        for node in graph
        if node in reached[node]
    }
    return [list(circle) for circle in sorted(found)]


def arrows_up(graph: Graph) -> set[tuple[str, str]]:
    """The fewest arrows without which there are no circles."""
    up: set[tuple[str, str]] = set()
    for circle in circles_of(graph):
        inside = [(a, b) for a in circle for b in graph[a] if b in circle]
        orders = [{node: n for n, node in enumerate(order)} for order in permutations(circle)]
        best = min(orders, key=lambda at: sum(at[a] <= at[b] for a, b in inside))
        up |= {(a, b) for a, b in inside if best[a] <= best[b]}
    return up


def floors_of(graph: Graph) -> dict[str, int]:
    """The floor of each node: one above the highest that it imports."""
    up, floors = arrows_up(graph), dict.fromkeys(graph, 0)
    for _ in graph:
        for node, imported in graph.items():
            below = [floors[other] for other in imported if (node, other) not in up]
            floors[node] = max(below, default=-1) + 1
    return floors


def figures(root: Path) -> str:
    """The figures of the drawing of a checkout."""
    imports = imports_of(root)
    rooms = rooms_of(imports)
    floors = floors_of(rooms)
    arrows = sum(map(len, rooms.values()))
    lines = [
        f"{len(rooms)} rooms, {max(floors.values()) + 1} floors, {arrows} arrows, "
        f"{len(arrows_up(rooms))} up, {len(circles_of(rooms))} circles; "
        f"{len(imports)} files, {len(circles_of(imports))} circles among them"
    ]
    for floor in range(max(floors.values()), -1, -1):
        names = sorted(room for room in rooms if floors[room] == floor)
        lines.append(f"{floor}: {'  '.join(names)}")
    lines += [" <-> ".join(circle) for circle in circles_of(imports)]
    return "\n".join(lines)


def height_of(module: str) -> int:
    """The line of a module's room in `ORDER`; files beside the rooms are the ground."""
    return next((n for n, line in enumerate(ORDER) if room_of(module) in line), 0)


@pytest.fixture(scope="module")
def imports() -> Graph:
    return imports_of(ROOT)


def test_every_room_imports_from_below_alone(imports: Graph) -> None:
    found = [
        f"{module} imports {other}"
        for module, imported in imports.items()
        for other in imported
        if height_of(module) < height_of(other)
        or (height_of(module) == height_of(other) > 0 and room_of(module) != room_of(other))
    ]
    assert not found


def test_no_files_import_each_other_in_a_circle(imports: Graph) -> None:
    assert not circles_of(imports)


def test_the_package_has_no_more_modules_than_can_be_taken_in() -> None:
    beside = [path for path in (ROOT / "dipair_index").iterdir() if path.suffix == ".py"]
    assert len(beside) <= MOST_SIDE_BY_SIDE


def test_every_folder_has_its_line_in_the_order_of_rooms(imports: Graph) -> None:
    folders = {room_of(name) for name in imports if name.count(".") > 1}
    assert folders == {room for line in ORDER[1:] for room in line}


def test_there_is_one_spelling_of_an_import() -> None:
    bare = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files_of(ROOT).values()
        for module in sorted(names_imported(path))
        if module.split(".")[0] in FOLDERS[1:]
    ]
    assert not bare


def test_torch_stays_out_of_the_stores() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "stores").rglob("*.py"))
        if {name.split(".")[0] for name in names_imported(path)} & {"torch", "transformers"}
    ]
    assert not found


@pytest.mark.parametrize(
    ("room", "importers"), [("serving", {"dipair_index.cli.serve"}), ("toolkits", set())]
)
def test_what_needs_more_packages_is_imported_where_it_is_asked_for(
    imports: Graph, room: str, importers: set[str]
) -> None:
    name = f"dipair_index.rerank.{room}"
    found = {
        module
        for module, imported in imports.items()
        if not module.startswith(name) and any(each.startswith(name) for each in imported)
    }
    assert found == importers


def test_circles_and_floors_are_counted() -> None:
    """a, b and c import one another in a circle, b also d, and e imports a."""
    imported = {"a": "b", "b": "cd", "c": "a", "d": "", "e": "a"}
    graph = {name: frozenset(others) for name, others in imported.items()}
    assert circles_of(graph) == [["a", "b", "c"]]
    assert len(arrows_up(graph)) == 1
    straight = graph | {"c": frozenset()}
    assert circles_of(straight) == []
    assert floors_of(straight) == {"a": 2, "b": 1, "c": 0, "d": 0, "e": 3}


if __name__ == "__main__":
    sys.stdout.write(figures(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT) + "\n")
