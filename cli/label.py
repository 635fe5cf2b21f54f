"""`dipair-index label`: a teacher's logits for the transfer set."""

from __future__ import annotations

from pathlib import Path

import click

from dipair_index.cli.console import progress, remark
from dipair_index.cli.dataset_option import dataset_option
from dipair_index.cli.torch_device import prepare_torch


@click.command()
@dataset_option
@click.option(
    "--teacher",
    required=True,
    metavar="NAME",
    help="Score with this cross-encoder: a folder of train-teacher, any transformers name, or an "
    "ONNX file with tokenizer.json beside it",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the shards into this folder  [default: labels/ inside the dataset]",
)
@click.option(
    "--per-query",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    help="Label this many retrieved passages a query, and its judged ones",
)
@click.option("--limit", type=click.IntRange(min=1), help="Stop after this many pairs")
@click.option(
    "--shard-size",
    type=click.IntRange(min=1),
    default=2048,
    show_default=True,
    help="Write this many pairs into one shard",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Score this many pairs at once",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draw with")
@click.option("--device", default="cpu", show_default=True, help="Score on this torch device")
def label(
    dataset: Path,
    teacher: str,
    labels: Path | None,
    per_query: int,
    limit: int | None,
    shard_size: int,
    batch_size: int,
    seed: int,
    device: str,
) -> None:
    """Score the transfer set with a cross-encoder teacher.

    An interrupted run goes on when the same command is given again, and a larger --limit adds to
    what is there.

    \b
    Example:
      dipair-index label --teacher cross-encoder/ms-marco-MiniLM-L-12-v2 --limit 100000
    """
    from dipair_index.dataset_directory import DatasetLayout, read_record
    from dipair_index.labels import label_pairs
    from dipair_index.teacher import open_teacher

    read_record(dataset)
    prepare_torch(device)
    target = labels or DatasetLayout(dataset).labels
    model = open_teacher(teacher, device=device, batch_size=batch_size)
    done = 0
    with progress("labelling", "pairs") as report:
        report(0)
        for done, _ in label_pairs(
            dataset,
            target,
            model,
            per_query=per_query,
            shard_size=shard_size,
            seed=seed,
            limit=limit,
        ):
            report(done)
    remark(f"{done:,} pairs are labelled in {target}: next, `dipair-index train`")
