"""A training run: keeps its checkpoints until the model is complete, then saves the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dipair_index.errors import DirectoryError, SettingsError
from dipair_index.files import move_into_place, write_whole
from dipair_index.progress import Progress
from dipair_index.training.model_card import model_card
from dipair_index.training.provenance import library_versions, source_commit

MODEL_FILES = {"config.json", "training.json"}
"""What every finished run leaves in its folder."""


class TrainingRun:
    """A run that trains one model and saves it into `out`.

    Parameters
    ----------
    out : Path
        The folder of the model. `<out>.training` beside it holds settings and checkpoints until
        the model is saved.
    progress : Progress
        Shows the steps of the training.
    resume : bool
        Continue an interrupted run with the same settings.
    overwrite : bool
        Replace a model in `out`, or an interrupted run.
    command : str, optional
        The command line, noted in `training.json`.

    Raises
    ------
    DirectoryError
        If `out` exists and `overwrite` is false, or if it is not a trained model.
    """

    def __init__(
        self,
        out: Path,
        *,
        progress: Progress,
        resume: bool = False,
        overwrite: bool = False,
        command: str | None = None,
    ) -> None:
        check_out(out, overwrite=overwrite)
        self.out = out
        self.progress = progress
        self.resume = resume
        self._overwrite = overwrite
        self.command = command
        self._commit = source_commit()  # at the start, since the source may change meanwhile
        self._record: dict[str, Any] = {}

    @property
    def working(self) -> Path:
        """The folder of the unfinished run, beside `out`."""
        return self.out.with_name(f"{self.out.name}.training")

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints of a run with one stage."""
        return self.working / "checkpoints"

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Makes the working folder, or resumes an interrupted run with the same settings.

        Raises `SettingsError` if the interrupted run has other settings or library versions, and
        `DirectoryError` if there is one and neither `resume` nor `overwrite` was passed.
        """
        self._record = {**settings, "versions": library_versions()}
        check_out(self.out, overwrite=self._overwrite)
        note = self.working / "settings.json"
        if note.is_file() and self.resume:
            there = json.loads(note.read_text(encoding="utf-8"))
            here = json.loads(json.dumps(self._record))
            differing = [key for key in here if there.get(key) != here[key]]
            if differing:
                raise SettingsError(
                    f"{self.working} was begun with other settings ({', '.join(differing)}): pass "
                    "the same settings, or delete it to start over"
                )
            return
        if note.is_file() and not self._overwrite:
            raise DirectoryError(
                f"{self.working} holds an interrupted run: pass --resume to continue it, or "
                "--overwrite to start over"
            )
        if self.working.exists():
            if not note.is_file():
                raise DirectoryError(f"{self.working} is not a training run: move it away")
            shutil.rmtree(self.working)
        self.working.mkdir(parents=True)
        write_whole(note, f"{json.dumps(self._record, indent=2)}\n".encode())

    def finish(self, quality: Mapping[str, Any], save: Callable[[Path], None]) -> dict[str, Any]:
        """Saves the model with `training.json` and a card, and moves it to `out`.

        `save` writes the model into the folder that it is given. The checkpoints are removed.
        Returns the contents of `training.json`: settings, data, versions, quality, commit and
        command.
        """
        record = {
            **self._record,
            "quality": quality,
            "commit": self._commit,
            "command": self.command,
        }
        unfinished = self.working / "model"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        save(unfinished)
        text = json.dumps(record, indent=2) + "\n"
        (unfinished / "training.json").write_text(text, encoding="utf-8")
        card = model_card(self.out.name, record)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
        move_into_place(unfinished, self.out)
        shutil.rmtree(self.working)
        return record


def check_out(out: Path, *, overwrite: bool) -> None:
    """Checks that a model can be written to `out`.

    Raises `DirectoryError` if `out` exists and `overwrite` is false, or if it is not a trained
    model.
    """
    if not out.exists():
        return
    if not overwrite:
        raise DirectoryError(f"{out} exists: pass --overwrite to replace it, or another --out")
    inside = {path.name for path in out.iterdir()} if out.is_dir() else {"a file"}
    if inside and not inside >= MODEL_FILES:
        raise DirectoryError(
            f"{out} is not a model that `dipair-index` has trained, and --overwrite would delete "
            "it: pass another --out"
        )
