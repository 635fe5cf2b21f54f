"""Runs that go wrong end with a sentence; the losses are written by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dipair_index.errors import TrainingError
from dipair_index.training.trainer import Schedule, last_checkpoint, run_training


def run(folder: Path, loss_at: Callable[[int], float], *, steps: int, resume: bool = False) -> int:
    """Trains a line for some steps, whose loss is a number of our own; returns the steps done."""
    done = 0

    def count(step: int) -> None:
        nonlocal done
        done = step

    def loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return output.sum() * 0 + loss_at(done)

    def collate(items: list[int]) -> dict[str, Any]:
        return {"input": torch.ones(1, 1), "labels": torch.zeros(1)}

    schedule = Schedule(epochs=1, learning_rate=1e-3, batch_size=1, save_steps=25)
    run_training(
        torch.nn.Linear(1, 1),
        list(range(steps)),
        collate,
        loss,
        folder,
        schedule,
        resume=resume,
        report=count,
    )
    return done


def test_a_loss_that_is_no_number_ends_the_run_before_anything_is_saved(tmp_path: Path) -> None:
    message = "the loss is no longer a number at step 8: train again with --overwrite and a smaller"
    for bad in (float("nan"), float("inf")):
        with pytest.raises(TrainingError, match=message):
            run(tmp_path, lambda step: 1.0 if step < 7 else bad, steps=30)  # noqa: B023
    assert list(tmp_path.glob("checkpoint-*")) == []


def test_a_loss_that_stays_ten_times_its_start_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the loss has gone from 0.5 to 6 by step 140"):
        run(tmp_path, lambda step: 0.5 if step < 40 else 6.0, steps=400)


def test_a_resumed_run_still_knows_its_start(tmp_path: Path) -> None:
    assert run(tmp_path, lambda step: 0.5, steps=50) == 50
    with pytest.raises(TrainingError, match="the loss has gone from 0.5 to 6"):
        run(tmp_path, lambda step: 6.0, steps=400, resume=True)


def test_a_high_loss_that_comes_back_down_is_left_alone(tmp_path: Path) -> None:
    assert run(tmp_path, lambda step: 0.5 if step % 80 < 20 else 6.0, steps=300) == 300


def test_a_checkpoint_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    assert run(tmp_path, lambda step: 0.5, steps=50) == 50
    cut = tmp_path / "checkpoint-75"
    cut.mkdir()
    (cut / "model.safetensors").write_bytes(b"half a file")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-50")
    assert run(tmp_path, lambda step: 0.5, steps=100, resume=True) == 100
