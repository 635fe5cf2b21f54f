"""`dipair-index evaluate`: how good systems are, side by side, and what could be chance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from dipair_index.cli.console import progress, remark, table
from dipair_index.cli.make_dataset import DEFAULT_DATASET
from dipair_index.cli.options import device_option, json_option
from dipair_index.cli.torch_device import prepare_torch

if TYPE_CHECKING:
    from dipair_index.evaluation import JudgedPairs, JudgedRuns, Measured
    from dipair_index.pair_scores import PairTexts
    from dipair_index.records import Run

DEPTH = 100  # of the vector search that the sample's runs rerank


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--qrels", metavar="FILE", help="Judge the runs by this TREC or BEIR qrels file")
@click.option(
    "--dataset",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Let models score this dataset's judged pairs  "
    f"[default: {DEFAULT_DATASET}, else the bundled sample]",
)
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "test"]),
    default="test",
    show_default=True,
    help="Score these pairs of the dataset",
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
    multiple=True,
    metavar="NAME",
    help="Measure AUC, Pearson, or what ir-measures knows; may be repeated  [default: nDCG@10, "
    "RR@10 and R@100 of runs; of pairs AUC, or Pearson of graded labels]",
)
@click.option(
    "--relevant-from",
    type=float,
    metavar="LABEL",
    help="Take labels from this one on as relevant, in AUC and in the default measures",
)
@click.option(
    "--baseline", metavar="SYSTEM", help="Compare the others with this one  [default: the first]"
)
@click.option(
    "--resamples",
    type=click.IntRange(min=0),
    default=10_000,
    show_default=True,
    help="Draw the queries anew so many times for p-values; 0 leaves them out",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draw with")
@json_option()
@device_option("Score")
@click.pass_context
def evaluate(
    ctx: click.Context,
    runs: tuple[str, ...],
    qrels: str | None,
    dataset: Path | None,
    split: str,
    model: tuple[str, ...],
    measure: tuple[str, ...],
    relevant_from: float | None,
    baseline: str | None,
    resamples: int,
    seed: int,
    as_json: bool,
    device: str,
) -> None:
    """Measure runs against qrels, or models on a dataset's judged pairs.

    Systems stand below each other, measure by measure. Each is compared with a baseline by the
    paired bootstrap over queries: p is two-sided, and 95 % of the resampled differences lie from
    low to high.

    A judged query that a run does not rank counts as 0 (trec_eval -c), and a passage without
    judgement as not relevant; queries without judgements are left out. AUC and Pearson of runs are
    over the judged pairs that all of them rank. A dataset's miner is a system too: the score by
    which negatives were found.

    \b
    Example:
      dipair-index evaluate
      dipair-index evaluate --dataset dipair.dataset --model dipair.model --model dipair.teacher
      dipair-index evaluate --qrels qrels.txt bm25.run dipair.run --measure "RR(rel=2)@10"
    """
    from dipair_index.evaluation import Bootstrap, check_labels
    from dipair_index.evaluation import evaluate as evaluated
    from dipair_index.metrics import check_measures

    measures = check_measures(measure)
    if bool(runs) != bool(qrels):
        given, missing = ("runs", "--qrels FILE") if runs else ("--qrels", "the run files")
        raise click.UsageError(f"{given} alone cannot be measured: give {missing} too")
    typed = [
        name
        for name in ("dataset", "split", "model")
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if runs and typed:
        raise click.UsageError(f"--{typed[0]} is for a dataset's pairs: drop it, or the runs")
    judged: JudgedPairs | JudgedRuns
    if runs and qrels:
        judged = _of_files(qrels, runs, measures)
    elif dataset or DEFAULT_DATASET.exists() or "split" in typed:
        pairs, texts = _of_dataset(dataset or DEFAULT_DATASET, split, device)
        measures = measures or _default_of_pairs(pairs, relevant_from)
        check_labels(pairs, measures, relevant_from)
        names = _names([*model, *pairs.systems])
        _refuse_baseline(baseline, names)
        judged = _scored(pairs, texts, dict(zip(names, model, strict=False)), device)
    else:
        judged = _of_sample(model, device)
    _refuse_baseline(baseline, judged.systems)
    bootstrap = Bootstrap(baseline or judged.systems[0], resamples, seed)
    results = evaluated(
        judged, measures or _default_of_runs(relevant_from), bootstrap, relevant_from
    )
    if as_json:
        settings = {"queries": len(judged.queries), "relevant_from": relevant_from}
        found = {**settings, **bootstrap._asdict(), "results": [each._asdict() for each in results]}
        click.echo(json.dumps(found, ensure_ascii=False))
    else:
        _print_table(results)
    if any(measured.p is not None for measured in results):
        remark(f"compared with {bootstrap.baseline} by {resamples:,} resamples of the queries")


# ==== What is measured ====


def _of_files(qrels_file: str, run_files: Sequence[str], measures: Sequence[str]) -> JudgedRuns:
    """Reads runs and qrels; says what is in some of them only."""
    from dipair_index.errors import FormatError
    from dipair_index.evaluation import JudgedRuns
    from dipair_index.formats import read_qrels, read_run
    from dipair_index.metrics import PAIR_MEASURES

    names, qrels = _names(run_files), read_qrels(qrels_file)
    runs = {name: read_run(file) for name, file in zip(names, run_files, strict=True)}
    for name, run in runs.items():
        missing, unjudged = qrels.keys() - run.keys(), run.keys() - qrels.keys()
        if len(missing) == len(qrels):
            raise FormatError(
                f"{name} ranks none of the {len(qrels):,} queries that {qrels_file} judges: it "
                f"ranks query {min(run)}, and judged is query {min(qrels)}"
            )
        if missing:
            remark(f"{name} ranks nothing for {len(missing):,} judged queries: they count as 0")
        if unjudged:
            remark(f"{name} ranks {len(unjudged):,} queries without judgements: left out")
    judged = JudgedRuns(qrels, runs)
    remark(f"{len(qrels):,} judged queries")
    if of_pairs := [name for name in measures if name in PAIR_MEASURES]:
        count, total = len(judged.as_pairs().labels), sum(map(len, qrels.values()))
        remark(f"{', '.join(of_pairs)}: of {count:,} of {total:,} judged pairs, ranked by all runs")
    return judged


def _of_dataset(dataset: Path, split: str, device: str) -> tuple[JudgedPairs, PairTexts]:
    """Reads the pairs of a split, with the miner's scores."""
    from dipair_index.dataset_directory import read_record

    read_record(dataset)  # says what is wrong with it before torch takes its seconds
    from dipair_index.pair_scores import read_judged_pairs

    prepare_torch(device)
    pairs, texts = read_judged_pairs(dataset, split)
    remark(f"{dataset}, {split}: {len(pairs.labels):,} pairs of {len(pairs.queries):,} queries")
    return pairs, texts


def _scored(
    pairs: JudgedPairs, texts: PairTexts, models: Mapping[str, str], device: str
) -> JudgedPairs:
    """Lets every model score the pairs; the miner stands last."""
    from dipair_index.pair_scores import scores_of_model

    scores = {}
    for name, model in models.items():
        with progress(f"Scoring with {name}", "pairs") as report:
            scores[name] = scores_of_model(model, texts, device=device, report=report)
    return pairs._replace(scores={**scores, **pairs.scores})


def _of_sample(models: Sequence[str], device: str) -> JudgedRuns:
    """Answers the bundled sample's dev queries by each model's vector search, and reranked."""
    from dipair_index.dual_encoder import DualEncoder
    from dipair_index.evaluation import JudgedRuns
    from dipair_index.formats import read_passages, read_qrels, read_queries
    from dipair_index.msmarco import sample_folder
    from dipair_index.rerank.build import build_index
    from dipair_index.rerank.index import DiPairIndex

    sample = sample_folder()
    queries = list(read_queries(sample / "queries.dev.tsv"))
    remark(f"no runs and no dataset: measuring {len(queries)} dev queries of the bundled sample")
    prepare_torch(device)
    runs: dict[str, Run] = {}
    for name, model in zip(_names(models), models, strict=True):
        encoder = DualEncoder.load(model, device=device)
        with TemporaryDirectory(prefix="dipair-") as folder:
            index_dir = Path(folder) / "sample.index"
            with progress("Encoding", "passages") as report:
                passages = read_passages(sample / "collection.tsv")
                build_index(passages, index_dir, encoder, report=report)
            with DiPairIndex.open(index_dir, encoder) as index:
                for system, rerank in (("vector search", False), ("reranked", True)):
                    rankings = index.search(
                        [query.text for query in queries],
                        DEPTH,
                        DEPTH,
                        rerank=rerank,
                        raw_scores=True,
                    )
                    runs[f"{name}: {system}"] = {
                        query.query_id: {passage.id: passage.score for passage in ranking}
                        for query, ranking in zip(queries, rankings, strict=True)
                    }
    return JudgedRuns(read_qrels(sample / "qrels.dev.tsv"), runs)


# ==== Names, defaults, output ====


def _names(given: Sequence[str]) -> list[str]:
    """What systems are called: the last part of each path, or all of it where two share that."""
    for name in given:
        if given.count(name) > 1:
            raise click.UsageError(f"{name} is given {given.count(name)} times: give it once")
    last = [Path(name).name or name for name in given]
    return [
        short if last.count(short) == 1 else name for name, short in zip(given, last, strict=True)
    ]


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
    """Prints a row for each system and measure; comparisons where there are any."""
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
