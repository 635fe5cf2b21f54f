"""transformers' Trainer as all our training uses it: the paper's optimiser, resumable, quiet."""

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
"""A loss this many times its start..."""
LOGS_TO_DIVERGE = 5
"""...in so many logs behind each other (100 steps) ends the run."""


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
) -> None:
    """Trains `model` in place with checkpoints in `folder`; `resume` goes on from the last.

    `compute_loss` takes the model's output and the batch's "labels". Raises `TrainingError` when
    the loss is no longer a number, or stays far above its start.
    """

    def checked_loss(output: Any, labels: Tensor, **_: Any) -> Tensor:
        loss = compute_loss(output, labels)
        # at once, so that no checkpoint is written of what cannot be gone on with
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
        callbacks=[_Watch(report, on_epoch)],
    )
    trainer.remove_callback(PrinterCallback)  # stdout is for data
    trainer.train(resume_from_checkpoint=last_checkpoint(folder) if resume else None)


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole; a run that was killed may have left one that is not."""
    # Trainer writes its state last
    whole = [state.parent for state in folder.glob("checkpoint-*/trainer_state.json")]
    return max(map(str, whole), key=lambda name: int(name.rsplit("-", 1)[1]), default=None)


class _Watch(TrainerCallback):
    """Reports steps and epochs, and stops a run that has diverged."""

    def __init__(self, report: Callable[[int], None], on_epoch: Callable[[int], None]) -> None:
        self._report = report
        self._on_epoch = on_epoch

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._on_epoch(int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._report(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # a checkpoint keeps the history, so a resumed run knows its start
        losses = [float(entry["loss"]) for entry in state.log_history if "loss" in entry]
        latest = losses[1:][-LOGS_TO_DIVERGE:]
        if len(latest) == LOGS_TO_DIVERGE and min(latest) > DIVERGED * losses[0]:
            raise TrainingError(
                f"the loss has gone from {losses[0]:.3g} to {losses[-1]:.3g} by step "
                f"{state.global_step}: train again with --overwrite and a smaller learning rate"
            )
