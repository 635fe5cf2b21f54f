"""The folder of one training run: checkpoints until the model is whole, then the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dipair_index.errors import IndexDirectoryError, SettingsError
from dipair_index.files import move_into_place
from dipair_index.training.model_card import model_card

MODEL_FILES = {"config.json", "training.json"}
"""What every finished run leaves in its folder."""


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raises `IndexDirectoryError` where a model is in the way, or anything but a model."""
    if not out.exists():
        return
    if not overwrite:
        raise IndexDirectoryError(f"{out} exists: pass --overwrite to replace it, or another --out")
    inside = {path.name for path in out.iterdir()} if out.is_dir() else {"a file"}
    if inside and not inside >= MODEL_FILES:
        raise IndexDirectoryError(
            f"{out} holds no model that `dipair-index` has trained, and --overwrite would delete "
            "it: pass another --out"
        )


def begin_run(out: Path, record: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Path:
    """Returns `<out>.training`, new or that of an interrupted run with the same `record`."""
    check_out(out, overwrite=overwrite)
    working = out.with_name(f"{out.name}.training")
    note = working / "settings.json"
    if note.is_file() and resume:
        there = json.loads(note.read_text(encoding="utf-8"))
        differing = [key for key in record if there.get(key) != json.loads(json.dumps(record[key]))]
        if differing:
            raise SettingsError(
                f"{working} was begun with other settings ({', '.join(differing)}): pass the same "
                "ones, or delete it to begin anew"
            )
        return working
    if note.is_file() and not overwrite:
        raise IndexDirectoryError(
            f"{working} holds an interrupted run: pass --resume to go on with it, or --overwrite "
            "to begin anew"
        )
    if working.exists():
        if not note.is_file():
            raise IndexDirectoryError(f"{working} is not a training run: move it away")
        shutil.rmtree(working)
    working.mkdir(parents=True)
    note.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return working


def finish_run(
    out: Path, working: Path, record: Mapping[str, Any], save: Callable[[Path], None]
) -> None:
    """Saves the model in `working` with `training.json` and a card, and moves it into place.

    The checkpoints are removed.
    """
    unfinished = working / "model"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    save(unfinished)
    text = json.dumps(record, indent=2) + "\n"
    (unfinished / "training.json").write_text(text, encoding="utf-8")
    (unfinished / "README.md").write_text(model_card(out.name, record), encoding="utf-8")
    move_into_place(unfinished, out)
    shutil.rmtree(working)
