"""`dipair-index rerank`: retrieves and reranks passages for queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dipair_index.cli._console import progress, remark
from dipair_index.cli._filter_option import filter_option, parsed_filter
from dipair_index.cli._first_stage import check_first_stage, first_stage_options
from dipair_index.cli._identical import identical_ids_option, without_own
from dipair_index.cli._options import (
    QUERIES_AT_ONCE,
    backend_option,
    compute_options,
    given_sides_option,
    index_dirs_option,
    json_option,
    precision_option,
)
from dipair_index.cli._rankings import (
    Rankings,
    write_beside,
    write_json,
    write_table,
    write_trec,
)
from dipair_index.cli._types import COUNT, TEXT
from dipair_index.cli.build import build_sample, lacks_sample
from dipair_index.words import counted, listed

if TYPE_CHECKING:
    from dipair_index.models.systems import Backend, Precision
    from dipair_index.records import Query, Run
    from dipair_index.rerank.index import DiPairIndex
    from dipair_index.rerank.names import FirstStage, FusionMethod
    from dipair_index.rerank.ranking import Ranking, Timings

TOP_K = 10
FIRST_STAGE_NAMES = {"vectors": "vector search", "lexical": "BM25", "both": "vectors and BM25"}
NEED_IDS = {
    "as_trec": "--trec",
    "run_file": "--run",
    "ignore_identical_ids": "--ignore-identical-ids",
}


@click.command()
@click.option(
    "--query", type=TEXT, metavar="TEXT", help="Search for this query; - reads it from stdin"
)
@click.option("--queries", metavar="FILE", help="Search for each query of this TSV or JSONL file")
@index_dirs_option("Search this index")
@click.option("--model", help="Score with this DiPair model  [default: the one of the index]")
@given_sides_option(
    "Take the tokens of this side of the model from a file, by whose ids queries name items"
)
@click.option(
    "--candidates",
    type=COUNT,
    default=100,
    show_default=True,
    help="Retrieve this many passages, which the head scores",
)
@click.option(
    "--top-k",
    type=COUNT,
    help="Print this many passages of each query  "
    f"[default: {TOP_K}, with --run all that it ranks]",
)
@click.option(
    "--run",
    "run_file",
    metavar="RUN",
    help="Rerank the passages of this TREC run instead of retrieving",
)
@first_stage_options()
@filter_option()
@click.option("--no-rerank", is_flag=True, help="Print the ranking of the first stage")
@click.option(
    "--compare", is_flag=True, help="Print the rankings before and after DiPair side by side"
)
@json_option("one JSON object for each query")
@click.option("--trec", "as_trec", is_flag=True, help="Print a TREC run")
@click.option("--raw-scores", is_flag=True, help="Print logits, not scores from 0 to 1")
@identical_ids_option()
@compute_options("Compute")
@backend_option()
@precision_option()
@click.pass_context
def rerank(
    ctx: click.Context,
    query: str | None,
    queries: str | None,
    index_dir: tuple[Path, ...],
    model: str | None,
    side: tuple[str, ...],
    candidates: int,
    top_k: int | None,
    run_file: str | None,
    first_stage: FirstStage,
    fusion: FusionMethod | None,
    weight: float | None,
    filters: tuple[str, ...],
    no_rerank: bool,
    compare: bool,
    as_json: bool,
    as_trec: bool,
    raw_scores: bool,
    ignore_identical_ids: bool,
    device: str,
    backend: Backend,
    precision: Precision,
) -> None:
    """Retrieve passages for a query and rerank them with DiPair.

    The output is a table on a terminal, and tab-separated lines in a pipe. Without --index-dir and
    an index in ./dipair.index, an index of the bundled sample is built there first.

    \b
    Example:
      dipair-index rerank --query "why does dough rise"
      dipair-index rerank --queries queries.tsv --trec > dipair.run
      dipair-index rerank --query "why does dough rise" --index-dir a.index --index-dir b.index
      dipair-index rerank --queries queries.tsv --run bm25.run --trec > dipair.run
      dipair-index rerank --query "why does dough rise" --first-stage both
      dipair-index rerank --queries queries.tsv --run splade.run --fusion weighted --trec
      dipair-index rerank --query "why does dough rise" --filter lang=en --filter "year>=2000"
    """
    _check_usage(ctx.params)
    conditions = parsed_filter(filters)
    from dipair_index.encoders.given_sides import give_all, read_given
    from dipair_index.encoders.open import backend_for, open_encoder
    from dipair_index.rerank.fitting import refuse_other_sides
    from dipair_index.stores.manifest import Manifest

    run, asked = _run(run_file, _queries(query, queries), ignore_identical_ids)
    top_k = _depth(top_k, run, run_file)
    default_index = ctx.get_parameter_source("index_dir") is ParameterSource.DEFAULT
    if default_index and lacks_sample(index_dir[0]):
        build_sample(index_dir[0], model=model, device=device, backend=backend)
    # says what is wrong with the index before a model is loaded
    manifest = Manifest.read(index_dir[0])
    refuse_other_sides(manifest, index_dir[0])
    given = read_given(side)
    encoder = open_encoder(
        model or manifest.model, backend=backend_for(precision, backend), device=device
    )
    give_all(encoder, given)
    from dipair_index.rerank.index import DiPairIndex

    with DiPairIndex.open(index_dir, encoder, precision=precision) as index:
        ranked = _answers(
            index,
            asked,
            run,
            first_stage,
            top_k=max(top_k, candidates) if compare else top_k,
            candidates=candidates,
            rerank=not no_rerank,
            conditions=conditions,
            ignore_identical_ids=ignore_identical_ids,
            raw_scores=raw_scores,
            fusion=fusion,
            weight=weight,
        )
        if as_trec:
            write_trec(ranked)
        elif as_json:
            write_json(ranked)
        elif compare:
            write_beside(ranked, top_k, "run" if run_file else FIRST_STAGE_NAMES[first_stage])
        else:
            write_table(ranked, several=queries is not None)


def _check_usage(given: Mapping[str, Any]) -> None:
    """Refuses options that contradict each other, or need one that is missing."""
    query, queries, run_file = given["query"], given["queries"], given["run_file"]
    if (query is None) == (queries is None):
        raise click.UsageError("give either --query TEXT or --queries FILE")
    for name, option in NEED_IDS.items():
        if query is not None and given[name]:
            raise click.UsageError(f"{option} needs query ids: give --queries FILE, not --query")
    if given["as_json"] + given["as_trec"] + given["compare"] > 1:
        raise click.UsageError("give one of --json, --trec and --compare")
    if given["no_rerank"] and (given["compare"] or run_file):
        option = "--compare" if given["compare"] else "--run"
        raise click.UsageError(
            f"--no-rerank leaves nothing to do for {option}: leave out one of them"
        )
    check_first_stage(given)
    if given["filters"] and run_file:
        raise click.UsageError(
            "--filter narrows the search, and --run takes its place: leave out one of them"
        )
    candidates, top_k = given["candidates"], given["top_k"] or TOP_K
    if not run_file and not given["no_rerank"] and candidates < top_k:
        raise click.UsageError(
            f"--candidates {candidates} is fewer than --top-k {top_k}: retrieve at least as many "
            "as are printed"
        )


def _depth(top_k: int | None, run: Run | None, run_file: str | None) -> int:
    """The number of passages to print of each query: by default all that a run ranks."""
    if run is None:
        return top_k or TOP_K
    longest = max(map(len, run.values()))
    if top_k and top_k < longest:
        remark(
            f"--top-k {top_k} cuts {run_file}, which ranks up to {longest:,} passages a query: "
            "measures of more, such as R@100, fall by that"
        )
    return top_k or max(longest, 1)


def _queries(text: str | None, file: str | None) -> list[Query]:
    """Returns the queries to answer; refuses empty ones before anything is loaded."""
    from dipair_index.formats.collections import read_queries
    from dipair_index.formats.lines import standard_input
    from dipair_index.records import Query

    if file is not None:
        return list(read_queries(file))
    if text == "-":
        try:
            text = standard_input().read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise click.UsageError(f"standard input is not UTF-8 ({error.reason})") from error
    if not text or not text.strip():
        raise click.UsageError("the query is empty: give --query some text")
    return [Query("query", text.strip())]


def _run(
    file: str | None, asked: list[Query], ignore_identical_ids: bool
) -> tuple[Run | None, list[Query]]:
    """Returns the run to rerank, if any, and the queries that it ranks passages for."""
    if file is None:
        return None, asked
    from dipair_index.errors import FormatError
    from dipair_index.formats.trec import read_run, without_identical_ids

    run = read_run(file)
    if ignore_identical_ids:
        run = without_identical_ids(run)
    unknown = sorted(set(run) - {query.query_id for query in asked})
    if unknown:
        raise FormatError(
            f"{file} ranks passages for query {listed(unknown, 1)}, whose text --queries does not "
            "hold: give the file with these queries"
        )
    ranked = [query for query in asked if run.get(query.query_id)]
    if len(ranked) < len(asked):
        left_out = counted(
            len(asked) - len(ranked),
            f"query has no line in {file} and is",
            f"queries have no line in {file} and are",
        )
        remark(f"{left_out} left out")
    return run, ranked


def _answers(
    index: DiPairIndex,
    asked: Sequence[Query],
    run: Run | None,
    first_stage: FirstStage,
    *,
    top_k: int,
    candidates: int,
    rerank: bool,
    conditions: dict[str, Any] | None,
    ignore_identical_ids: bool,
    **scoring: Any,
) -> Rankings:
    """Yields each query with its ranking, in batches; prints the timings at the end.

    `scoring` are settings that `search` and `rerank_run` both take.
    """
    from dipair_index.rerank.ranking import Timings

    waiting, spent, count = iter(asked), Timings(), 0
    matched = conditions is None
    searching = {"rerank": rerank, "first_stage": first_stage, "filter": conditions, **scoring}
    # a few queries are answered before a bar could be read
    with progress("Ranking", "queries") if len(asked) > QUERIES_AT_ONCE else _quiet() as show:
        while batch := list(islice(waiting, QUERIES_AT_ONCE)):
            texts = [query.text for query in batch]
            rankings: list[Ranking]
            if run is None and ignore_identical_ids:
                depth = candidates if rerank else top_k
                found = index.search(texts, depth + 1, depth + 1, **searching)
                rankings = [
                    without_own(query.query_id, ranking, depth, top_k)
                    for query, ranking in zip(batch, found, strict=True)
                ]
            elif run is None:
                rankings = index.search(texts, top_k, candidates, **searching)
            else:
                ranked = index.rerank_run(batch, run, top_k, **scoring)
                rankings = [ranked[query.query_id] for query in batch]
            spent = Timings.total([spent, *(ranking.timings for ranking in rankings)])
            yield from zip(batch, rankings, strict=True)
            count += len(batch)
            show(count)
            matched = matched or any(rankings)
    if not matched:
        remark("no passage of the index fulfils --filter: `rerank --json` shows the metadata")
    remark(_spent(spent, count))


def _quiet() -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda count: None)


def _spent(timings: Timings, queries: int) -> str:
    parts = ", ".join(
        f"{part} {1000 * seconds:.1f} ms"
        for part, seconds in timings._asdict().items()
        if seconds > 0
    )
    return f"{parts} ({counted(queries, 'query')})"
