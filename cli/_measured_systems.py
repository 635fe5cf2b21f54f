"""The systems that `dipair-index evaluate` measures: runs, indexes, models, the sample."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from dipair_index.cli._console import progress, remark
from dipair_index.cli._options import QUERIES_AT_ONCE
from dipair_index.words import counted

if TYPE_CHECKING:
    from dipair_index.encoders.scorers import Texts
    from dipair_index.evaluation.bootstrap import JudgedPairs, JudgedRuns
    from dipair_index.records import Qrels, Query, Run
    from dipair_index.rerank.index import DiPairIndex

FEW = 0.05  # of the queries, which suggests that ids do not match
DEPTH = 100  # of the vector search that is reranked


def names_of(given: Sequence[str]) -> list[str]:
    """The names of systems: the last part of each path, or all of it if two share that."""
    for name in given:
        if given.count(name) > 1:
            raise click.UsageError(f"{name} is given {given.count(name)} times: give it once")
    last = [Path(name).name or name for name in given]
    return [
        short if last.count(short) == 1 else name for name, short in zip(given, last, strict=True)
    ]


def of_files(
    qrels_file: str,
    run_files: Sequence[str],
    measures: Sequence[str],
    indexes: Sequence[str] = (),
    queries_file: str | None = None,
    device: str = "cpu",
    ignore_identical_ids: bool = False,
) -> JudgedRuns:
    """Reads runs and qrels, searches indexes, and says what only some of them hold."""
    from dipair_index.errors import FormatError
    from dipair_index.evaluation.bootstrap import JudgedRuns
    from dipair_index.evaluation.measures import PAIR_MEASURES
    from dipair_index.formats.collections import read_queries
    from dipair_index.formats.trec import read_qrels, read_run, without_identical_ids

    names, qrels = names_of([*run_files, *indexes]), read_qrels(qrels_file)
    runs = {name: read_run(file) for name, file in zip(names, run_files, strict=False)}
    for name, run in runs.items():
        missing, unjudged = qrels.keys() - run.keys(), run.keys() - qrels.keys()
        if len(missing) == len(qrels):
            raise FormatError(
                f"{name} ranks none of the {counted(len(qrels), 'query')} that {qrels_file} "
                f"judges: it ranks query {min(run)}, and judged is query {min(qrels)}"
            )
        if missing:
            lacking = counted(len(missing), "judged query: it counts", "judged queries: they count")
            remark(f"{name} ranks nothing for {lacking} as 0")
        if unjudged:
            remark(f"{name} ranks {counted(len(unjudged), 'query')} without judgements: left out")
    if queries_file is not None:
        queries = [query for query in read_queries(queries_file) if query.query_id in qrels]
        if len(queries) < len(qrels):
            missing = qrels.keys() - {query.query_id for query in queries}
            raise FormatError(
                f"{queries_file} lacks {len(missing):,} of the queries that {qrels_file} judges, "
                f"such as {min(missing)}: give the file with all of them"
            )
        depth = DEPTH + ignore_identical_ids  # one of them is the query itself
        for name, folder in zip(names[len(run_files) :], indexes, strict=True):
            runs |= _runs_of_folder(name, Path(folder), queries, device, depth)
    if ignore_identical_ids:
        runs = {name: without_identical_ids(run) for name, run in runs.items()}
    _remark_on_ids(runs, qrels, qrels_file)
    _remark_on_depths(runs, measures)
    judged = JudgedRuns(qrels, runs)
    remark(counted(len(qrels), "judged query"))
    if of_pairs := [name for name in measures if name in PAIR_MEASURES]:
        count = len(judged.as_pairs().labels)
        total = counted(sum(map(len, qrels.values())), "judged pair")
        remark(f"{', '.join(of_pairs)}: of {count:,} of {total}, ranked by all runs")
    return judged


def _remark_on_ids(runs: Mapping[str, Run], qrels: Qrels, qrels_file: str) -> None:
    """Warns if a run ranks hardly any judged passage, as with ids of another collection."""
    for name, run in runs.items():
        common = [query_id for query_id in qrels if run.get(query_id)]
        apart = [each for each in common if qrels[each].keys().isdisjoint(run[each])]
        if len(common) - len(apart) < FEW * len(common):
            example = min(apart)
            first, judged = max(run[example], key=run[example].__getitem__), qrels[example]
            remark(
                f"{name} ranks a passage that {qrels_file} judges for {len(common) - len(apart):,} "
                f"of {counted(len(common), 'query')}: for query {example} it ranks passage {first} "
                f"first, and judged is {max(judged, key=judged.__getitem__)}. Are both of one "
                "collection?"
            )


def _remark_on_depths(runs: Mapping[str, Run], measures: Sequence[str]) -> None:
    """Warns if a run may look worse only because it ranks fewer passages than another."""
    depths = {name: max(map(len, run.values()), default=0) for name, run in runs.items()}
    for name, depth in depths.items():
        cutoffs = {each: re.search(r"@(\d+)$", each) for each in measures}
        cut = [
            each
            for each, found in cutoffs.items()
            if found and depth < min(int(found[1]), max(depths.values()))
        ]
        if cut:
            remark(
                f"{name} ranks up to {counted(depth, 'passage')} a query, and another run "
                f"{max(depths.values()):,}: by {', '.join(cut)} it may look worse for that alone"
            )


def of_dataset(dataset: Path, split: str, device: str) -> tuple[JudgedPairs, Texts]:
    """Reads the pairs of a split, with the miner's scores."""
    from dipair_index.data.dataset import Dataset

    judged = Dataset.open(dataset).judged(split)
    pairs = judged.as_pairs()
    counts = f"{counted(len(pairs.labels), 'pair')} of {counted(len(pairs.queries), 'query')}"
    remark(f"{dataset}, {split}: {counts}")
    return pairs, judged.texts


def scored(pairs: JudgedPairs, texts: Texts, models: Mapping[str, str], device: str) -> JudgedPairs:
    """Scores the pairs with every model; the miner's scores come last."""
    from dipair_index.encoders.scorers import scores_of_model

    scores = {}
    for name, model in models.items():
        with progress(f"Scoring with {name}", "pairs") as report:
            scores[name] = scores_of_model(model, texts, device=device, report=report)
    return pairs._replace(scores={**scores, **pairs.scores})


def of_sample(models: Sequence[str], device: str) -> JudgedRuns:
    """Runs of the bundled sample's dev queries: each model's vector search, and reranked."""
    from dipair_index.encoders.open import open_encoder
    from dipair_index.evaluation.bootstrap import JudgedRuns
    from dipair_index.formats.collections import read_passages, read_queries
    from dipair_index.formats.msmarco import sample_folder
    from dipair_index.formats.trec import read_qrels
    from dipair_index.rerank.build import build_index
    from dipair_index.rerank.index import DiPairIndex

    sample = sample_folder()
    queries = list(read_queries(sample / "queries.dev.tsv"))
    remark(f"no runs and no dataset: measuring {len(queries)} dev queries of the bundled sample")
    runs: dict[str, Run] = {}
    for name, model in zip(names_of(models), models, strict=True):
        encoder = open_encoder(model, device=device)
        with TemporaryDirectory(prefix="dipair-") as folder:
            index_dir = Path(folder) / "sample.index"
            with progress("Encoding", "passages") as report:
                passages = read_passages(sample / "collection.tsv")
                build_index(passages, index_dir, encoder, report=report)
            with DiPairIndex.open(index_dir, encoder) as index:
                runs |= _runs_of_index(name, index, queries)
    return JudgedRuns(read_qrels(sample / "qrels.dev.tsv"), runs)


def _runs_of_folder(
    name: str, folder: Path, queries: Sequence[Query], device: str, depth: int
) -> dict[str, Run]:
    """Runs of an index with the model that it was built with."""
    from dipair_index.rerank.index import DiPairIndex

    with DiPairIndex.open(folder, device=device) as index:
        return _runs_of_index(name, index, queries, depth)


def _runs_of_index(
    name: str, index: DiPairIndex, queries: Sequence[Query], depth: int = DEPTH
) -> dict[str, Run]:
    """Runs of the vector search alone, and with its first `depth` passages reranked."""
    runs: dict[str, Run] = {}
    for system, rerank in (("vector search", False), ("reranked", True)):
        run = runs[f"{name}: {system}"] = {}
        with progress(f"Answering with {name}, {system}", "queries") as report:
            for start in range(0, len(queries), QUERIES_AT_ONCE):
                batch = queries[start : start + QUERIES_AT_ONCE]
                texts = [query.text for query in batch]
                found = index.search(texts, depth, depth, rerank=rerank, raw_scores=True)
                for query, ranking in zip(batch, found, strict=True):
                    run[query.query_id] = {passage.id: passage.score for passage in ranking}
                report(start + len(batch))
    return runs
