"""`dipair-index evaluate`: measures of systems side by side, with significance tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from dipair_index.cli._console import print_json, remark, table
from dipair_index.cli._dataset_option import DEFAULT_DATASET
from dipair_index.cli._identical import identical_ids_option
from dipair_index.cli._measured_systems import names_of, of_dataset, of_files, of_sample, scored
from dipair_index.cli._options import compute_options, json_option
from dipair_index.cli._types import NOT_NEGATIVE_COUNT, NUMBER, TEXT
from dipair_index.words import counted

if TYPE_CHECKING:
    from dipair_index.evaluation.bootstrap import JudgedPairs, JudgedRuns, Measured


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--qrels",
    metavar="FILE",
    help="Measure the runs against this TREC or BEIR qrels file, irds:ID or hf:OWNER/NAME",
)
@click.option(
    "--index-dir",
    "indexes",
    multiple=True,
    metavar="DIR",
    help="Measure this index on --queries, its vector search and reranked; may be repeated",
)
@click.option(
    "--queries",
    metavar="FILE",
    help="Read the texts of the judged queries from this file, for --index-dir",
)
@click.option(
    "--dataset",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Measure models on the judged pairs of this dataset  "
    f"[default: {DEFAULT_DATASET}, else the bundled sample]",
)
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "test"]),
    default="test",
    show_default=True,
    help="Measure on the pairs of this split",
)
@click.option(
    "--model",
    multiple=True,
    default=["default"],
    metavar="NAME",
    help="Measure this DiPair model or cross-encoder; may be repeated  [default: the bundled one]",
)
@click.option(
    "--measure",
    type=TEXT,
    multiple=True,
    metavar="NAME",
    help="Compute AUC, Pearson, or a measure of ir-measures; may be repeated  [default: nDCG@10, "
    "RR@10 and R@100 of runs; of pairs AUC, or Pearson of graded labels]",
)
@click.option(
    "--relevant-from",
    type=NUMBER,
    metavar="LABEL",
    help="Count labels from this one on as relevant, in AUC and in the default measures",
)
@click.option(
    "--baseline",
    type=TEXT,
    metavar="SYSTEM",
    help="Compare the other systems with this one  [default: the first]",
)
@click.option(
    "--resamples",
    type=NOT_NEGATIVE_COUNT,
    default=10_000,
    show_default=True,
    help="Number of bootstrap resamples of the queries for p-values; 0 computes none",
)
@identical_ids_option()
@click.option(
    "--seed",
    type=NOT_NEGATIVE_COUNT,
    default=0,
    show_default=True,
    help="Random seed of the bootstrap",
)
@json_option()
@compute_options("Score")
@click.pass_context
def evaluate(
    ctx: click.Context,
    runs: tuple[str, ...],
    qrels: str | None,
    indexes: tuple[str, ...],
    queries: str | None,
    dataset: Path | None,
    split: str,
    model: tuple[str, ...],
    measure: tuple[str, ...],
    relevant_from: float | None,
    baseline: str | None,
    resamples: int,
    ignore_identical_ids: bool,
    seed: int,
    as_json: bool,
    device: str,
) -> None:
    """Measure runs against qrels, or models on a dataset's judged pairs.

    Each system is compared with a baseline by the paired bootstrap over queries: p is two-sided,
    and 95 % of the resampled differences lie between low and high.

    A judged query that a run does not rank counts as 0 (trec_eval -c), and a passage without
    judgement as not relevant; queries without judgements are left out. AUC and Pearson of runs are
    computed over the judged pairs that all of them rank. A dataset's miner is measured too: the
    score by which its negatives were found.

    \b
    Example:
      dipair-index evaluate
      dipair-index evaluate --dataset dipair.dataset --model dipair.model --model dipair.teacher
      dipair-index evaluate --qrels qrels.txt bm25.run dipair.run --measure "RR(rel=2)@10"
      dipair-index evaluate --qrels qrels.txt --queries queries.tsv --index-dir dipair.index
    """
    from dipair_index.evaluation.bootstrap import Bootstrap, check_labels
    from dipair_index.evaluation.bootstrap import evaluate as evaluated
    from dipair_index.evaluation.measures import check_measures

    measures = check_measures(measure)
    split_given = _check_usage(ctx)
    judged: JudgedPairs | JudgedRuns
    if qrels:
        measures = measures or check_measures(_default_of_runs(relevant_from))
        judged = of_files(qrels, runs, measures, indexes, queries, device, ignore_identical_ids)
    elif dataset or DEFAULT_DATASET.exists() or split_given:
        pairs, texts = of_dataset(dataset or DEFAULT_DATASET, split, device)
        measures = measures or _default_of_pairs(pairs, relevant_from)
        check_labels(pairs, measures, relevant_from)
        names = names_of([*model, *pairs.systems])
        _refuse_baseline(baseline, names)
        judged = scored(pairs, texts, dict(zip(names, model, strict=False)), device)
    else:
        measures = measures or check_measures(_default_of_runs(relevant_from))
        judged = of_sample(model, device)
    _refuse_baseline(baseline, judged.systems)
    bootstrap = Bootstrap(baseline or judged.systems[0], resamples, seed)
    results = evaluated(judged, measures, bootstrap, relevant_from)
    if as_json:
        settings = {"queries": len(judged.queries), "relevant_from": relevant_from}
        found = {**settings, **bootstrap._asdict(), "results": [each._asdict() for each in results]}
        print_json(found)
    else:
        _print_table(results)
    if any(measured.p is not None for measured in results):
        remark(
            f"compared with {bootstrap.baseline} by {counted(resamples, 'resample')} of the queries"
        )


# ==== Usage, names, defaults, output ====


def _check_usage(ctx: click.Context) -> bool:
    """Refuses options that lack their partner or mean nothing; returns if --split was typed."""
    given = ctx.params
    if bool(given["indexes"]) != bool(given["queries"]):
        alone, missing = (
            ("--index-dir", "--queries FILE") if given["indexes"] else ("--queries", "--index-dir")
        )
        raise click.UsageError(f"{alone} needs {missing}: add it")
    runs, qrels = bool(given["runs"] or given["indexes"]), bool(given["qrels"])
    if qrels and not runs:
        raise click.UsageError("--qrels needs run files: add them")
    if runs and not qrels:
        raise click.UsageError("run files and --index-dir need judgements: give --qrels FILE too")
    if given["ignore_identical_ids"] and not qrels:
        raise click.UsageError("--ignore-identical-ids needs run files: add them, or leave it out")
    typed = [
        name
        for name in ("dataset", "split", "model")
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if qrels and typed:
        raise click.UsageError(
            f"--{typed[0]} is for the pairs of a dataset: leave it out, or the runs"
        )
    return "split" in typed


def _refuse_baseline(baseline: str | None, systems: Sequence[str]) -> None:
    if baseline is not None and baseline not in systems:
        raise click.UsageError(
            f"there is no system {baseline!r} to compare with: expected {', '.join(systems)}"
        )


def _default_of_pairs(pairs: JudgedPairs, relevant_from: float | None) -> list[str]:
    graded = relevant_from is None and len(set(pairs.labels.tolist())) > 2
    return ["Pearson" if graded else "AUC"]


def _default_of_runs(relevant_from: float | None) -> list[str]:
    relevant = "" if relevant_from is None else f"(rel={math.ceil(relevant_from)})"
    return ["nDCG@10", f"RR{relevant}@10", f"R{relevant}@100"]


def _print_table(results: Sequence[Measured]) -> None:
    """Prints a row for each system and measure, with comparisons if there are any."""
    columns = ["measure", "system", "value"]
    if compared := any(measured.p is not None for measured in results):
        columns += ["difference", "low", "high", "p"]
    rows = [
        [measured.measure, measured.system, f"{measured.value:.4f}"]
        + ([_cell(value, "+.4f") for value in measured[3:6]] + [_cell(measured.p, ".4f")])
        * compared
        for measured in results
    ]
    table(columns, rows, numbers=columns[2:])


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
