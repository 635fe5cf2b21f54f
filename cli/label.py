"""`dipair-index label`: labels the transfer set with a teacher, or imports labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from dipair_index.cli._console import progress, remark
from dipair_index.cli._dataset_option import dataset_option
from dipair_index.cli._options import compute_options
from dipair_index.cli._types import COUNT, NOT_NEGATIVE_COUNT
from dipair_index.words import counted

if TYPE_CHECKING:
    from dipair_index.data.dataset import Dataset

PER_QUERY = 12


@click.command()
@dataset_option
@click.option(
    "--teacher",
    metavar="NAME",
    help="Score with this cross-encoder: a folder of train-teacher, any transformers name, or an "
    "ONNX file with tokenizer.json beside it",
)
@click.option(
    "--scores",
    metavar="FILE",
    help="Take these scores instead: TSV with query_id, passage_id, score (or score_0, score_1 "
    "and on) in its header line, JSONL with these fields, or a TREC run",
)
@click.option(
    "--scores-are",
    type=click.Choice(["logit", "probability"]),
    default="logit",
    show_default=True,
    help="Scale of the scores; probabilities are converted to logits",
)
@click.option("--judged", is_flag=True, help="Take the dataset's own judgements as labels instead")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the shards into this folder  [default: labels/ inside the dataset]",
)
@click.option(
    "--per-query",
    type=COUNT,
    help="Label this many retrieved passages of each query, and its judged ones  "
    f"[default: {PER_QUERY}, and all of a dataset of given pairs]",
)
@click.option("--limit", type=COUNT, help="Stop after this many pairs")
@click.option(
    "--shard-size",
    type=COUNT,
    default=2048,
    show_default=True,
    help="Write this many pairs into one shard",
)
@click.option(
    "--batch-size",
    type=COUNT,
    default=8,
    show_default=True,
    help="Score this many pairs at once",
)
@click.option("--seed", type=NOT_NEGATIVE_COUNT, default=0, show_default=True, help="Random seed")
@compute_options("Score")
@click.pass_context
def label(
    ctx: click.Context,
    dataset: Path,
    teacher: str | None,
    scores: str | None,
    scores_are: str,
    judged: bool,
    labels: Path | None,
    per_query: int | None,
    limit: int | None,
    shard_size: int,
    batch_size: int,
    seed: int,
    device: str,
) -> None:
    """Score the transfer set with a cross-encoder teacher, or import scores made elsewhere.

    The same command resumes an interrupted run, and a larger --limit adds to the labels that are
    there. --scores imports a teacher's scores of the dataset's queries and passages; those of
    held-out queries are left out. --judged takes the judgements of the train pairs as labels, for
    training without a teacher.

    \b
    Example:
      dipair-index label --teacher cross-encoder/ms-marco-MiniLM-L-12-v2 --limit 100000
      dipair-index label --scores teacher.tsv --scores-are probability
      dipair-index label --judged
    """
    if (teacher is not None) + (scores is not None) + judged != 1:
        raise click.UsageError("give one of --teacher NAME, --scores FILE and --judged")
    if teacher is None:
        for name in ("per_query", "limit"):
            if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                option = f"--{name.replace('_', '-')}"
                raise click.UsageError(f"{option} is for the labels of a teacher: leave it out")
    from dipair_index.data.dataset import Dataset

    opened = Dataset.open(dataset)
    target = labels or opened.layout.labels
    if teacher is None:
        _import(opened, target, scores, scores_are, shard_size)
        return
    if per_query is None and opened.record.get("dataset") != "pairs":
        per_query = PER_QUERY
    from dipair_index.data.labels import label_pairs
    from dipair_index.encoders.cross_encoders import open_teacher
    from dipair_index.encoders.scorers import order_of_sides

    sides = order_of_sides(teacher, opened.sides)
    model = open_teacher(teacher, device=device, batch_size=batch_size)
    done = 0
    with progress("labelling", "pairs") as report:
        report(0)
        for done, _ in label_pairs(
            opened,
            target,
            model,
            per_query=per_query,
            shard_size=shard_size,
            seed=seed,
            limit=limit,
            sides=sides,
        ):
            report(done)
    _say_done(done, target)


def _import(
    dataset: Dataset, target: Path, scores: str | None, scale: str, shard_size: int
) -> None:
    """Imports scores, or the dataset's judgements without any."""
    from dipair_index.data.label_imports import CLIP, import_judgements, import_scores

    if scores is None:
        done = import_judgements(dataset, target, shard_size=shard_size)
    else:
        done = import_scores(dataset, target, scores, scale=scale, shard_size=shard_size)
    if done.held_out:
        remark(f"left out: {counted(done.held_out, 'pair')} of held-out queries")
    if done.clipped:
        moved = counted(done.clipped, "label was", "labels were")
        remark(f"{moved} moved to {CLIP:g} or {1 - CLIP:g}, since 0 and 1 have no finite logit")
    _say_done(done.labels, target)


def _say_done(count: int, target: Path) -> None:
    remark(
        f"{counted(count, 'pair is', 'pairs are')} labelled in {target}: next, `dipair-index train`"
    )
