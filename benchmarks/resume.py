"""Checks that a resumed benchmark has the arguments of its earlier rows."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path


def claim(folder: Path, given: Namespace, names: Sequence[str]) -> None:
    """Notes in `folder` the arguments that all its rows share; other ones there are refused."""
    note = folder / "run.json"
    settings = {name: _plain(getattr(given, name)) for name in names}
    if note.is_file() and (there := json.loads(note.read_text())) != settings:
        differing = [name for name in names if there.get(name) != settings[name]]
        raise SystemExit(
            f"{folder} holds rows made with another {', '.join(differing)}: choose another folder, "
            f"or pass what {note} says"
        )
    note.write_text(json.dumps(settings, indent=2) + "\n")


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
