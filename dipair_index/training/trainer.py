"""Runs transformers' Trainer with the paper's optimiser, checkpoints, and a watch on the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from dipair_index.errors import TrainingError

STEPS_BETWEEN_LOGS = 20
DIVERGED = 10.0
"""The loss has diverged if it is more than this many times its initial value..."""
LOGS_TO_DIVERGE = 5
"""...in so many consecutive logs (100 steps)."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast one model trains.

    The optimiser is the paper's (section 4.4): AdamW, weight decay 0.01, eps 1e-6, linear warm-up
    and decay. Warm-up is a share of the steps, since the paper's 50,000 suit 40 million pairs only.
    """

    epochs: float
    learning_rate: float
    batch_size: int
    warm_up: float = 0.1
    max_steps: int = -1
    save_steps: int = 200
    seed: int = 0
    device: str = "cpu"
    bf16: bool = False


def run_training(
    model: Any,
    dataset: Any,
    collate: Callable[[list[Any]], dict[str, Any]],
    compute_loss: Callable[[Any, Tensor], Tensor],
    folder: Path,
    schedule: Schedule,
    *,
    resume: bool,
    report: Callable[[int], None] = lambda step: None,
    on_epoch: Callable[[int], None] = lambda epoch: None,
    on_save: Callable[[int], None] = lambda step: None,
) -> None:
    """Trains `model` in place with checkpoints in `folder`; `resume` continues from the last one.

    `compute_loss` takes the model's output and the batch's "labels". `report` is called with the
    number of steps so far, `on_epoch` with the number of each epoch as it begins, and `on_save`
    with the step of each checkpoint. Raises `TrainingError` if the loss is not finite, or stays far
    above its initial value.
    """

    def checked_loss(output: Any, labels: Tensor, **_: Any) -> Tensor:
        loss = compute_loss(output, labels)
        # checked at each step, so that no checkpoint is written of a model that has diverged
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is no longer a number at step {trainer.state.global_step + 1}: train "
                "again with --overwrite and a smaller learning rate"
            )
        return loss

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=schedule.epochs,
            max_steps=schedule.max_steps,
            per_device_train_batch_size=schedule.batch_size,
            learning_rate=schedule.learning_rate,
            weight_decay=0.01,
            adam_epsilon=1e-6,
            lr_scheduler_type="linear",
            warmup_steps=schedule.warm_up,
            logging_steps=STEPS_BETWEEN_LOGS,
            logging_nan_inf_filter=False,
            save_steps=schedule.save_steps,
            save_total_limit=1,
            seed=schedule.seed,
            data_seed=schedule.seed,
            use_cpu=schedule.device == "cpu",
            bf16=schedule.bf16,
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=["labels"],
            report_to=[],
        ),
        train_dataset=dataset,
        data_collator=collate,
        compute_loss_func=checked_loss,
        callbacks=[_Watch(report, on_epoch, on_save)],
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for data
    trainer.train(resume_from_checkpoint=last_checkpoint(folder) if resume else None)


def last_checkpoint(folder: Path) -> str | None:
    """Returns the newest complete checkpoint; a killed run may have left an incomplete one."""
    # Trainer writes trainer_state.json last
    complete = [state.parent for state in folder.glob("checkpoint-*/trainer_state.json")]
    return max(map(str, complete), key=lambda name: int(name.rsplit("-", 1)[1]), default=None)


class _Watch(TrainerCallback):
    """Reports steps and epochs, and stops a run that has diverged."""

    def __init__(
        self,
        report: Callable[[int], None],
        on_epoch: Callable[[int], None],
        on_save: Callable[[int], None],
    ) -> None:
        self._report = report
        self._on_epoch = on_epoch
        self._on_save = on_save

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._on_epoch(int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._report(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._on_save(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # a checkpoint contains the history, so a resumed run knows the initial loss
        losses = [float(entry["loss"]) for entry in state.log_history if "loss" in entry]
        latest = losses[1:][-LOGS_TO_DIVERGE:]
        if len(latest) == LOGS_TO_DIVERGE and min(latest) > DIVERGED * losses[0]:
            raise TrainingError(
                f"the loss has gone from {losses[0]:.3g} to {losses[-1]:.3g} by step "
                f"{state.global_step}: train again with --overwrite and a smaller learning rate"
            )
