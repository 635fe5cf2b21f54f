"""`dipair-index inspect`: shows what kept tokens stand for, and what a logit is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from click.core import ParameterSource

from dipair_index.cli._asked import queries_or_sample
from dipair_index.cli._console import print_json, progress, remark, say, table
from dipair_index.cli._options import compute_options, index_dir_option, json_option
from dipair_index.cli._types import COUNT, NOT_NEGATIVE_COUNT
from dipair_index.cli.build import build_sample, lacks_sample
from dipair_index.optional import PACKAGES, require
from dipair_index.words import counted

if TYPE_CHECKING:
    from dipair_index.rerank.inspection.over_training import Course
    from dipair_index.rerank.inspection.pair import PairInspection
    from dipair_index.rerank.inspection.used import UsedTokens
    from dipair_index.rerank.inspection.words import Word

    Inspection: TypeAlias = PairInspection | UsedTokens | Course

NEAREST = 3
"""The words of the vocabulary that are found for each passage token."""
MOST_SHOWN = 4
"""The words that a table shows for one token."""


@click.command()
@index_dir_option("Read passages from this index")
@click.option("--query", metavar="TEXT", help="Inspect this query with a passage")
@click.option("--passage", metavar="ID", help="Inspect this passage of the index")
@click.option("--text", metavar="TEXT", help="Inspect this passage, which needs no index")
@click.option(
    "--sample",
    type=COUNT,
    default=200,
    show_default=True,
    help="Without --query, inspect this many passages of the index",
)
@click.option(
    "--queries",
    metavar="FILE",
    help="Without --query, see which tokens these queries meet  [default: those of the sample]",
)
@click.option("--qrels", metavar="FILE", help="Measure nDCG by the judgements in this TREC file")
@click.option(
    "--candidates",
    type=COUNT,
    default=50,
    show_default=True,
    help="Without --query, compare each query with this many passages",
)
@click.option(
    "--over-training",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Inspect the models that `train --keep-checkpoints` has written into this folder",
)
@click.option("--model", help="Inspect this DiPair model  [default: the one of the index]")
@click.option(
    "--vocabulary",
    type=NOT_NEGATIVE_COUNT,
    default=2000,
    show_default=True,
    metavar="N",
    help="Probe tokens back to the first N words of the vocabulary; 0 for none",
)
@click.option(
    "--figure",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the same into this file: .html, .svg, .png or .pdf",
)
@json_option()
@compute_options("Compute")
@click.pass_context
def inspect(
    ctx: click.Context,
    /,
    index_dir: Path,
    query: str | None,
    passage: str | None,
    text: str | None,
    over_training: Path | None,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what the kept tokens of a passage stand for, and what a logit is made of.

    For a query and a passage: the words that each kept token stands for, found by leaving words out
    of the text; the nearest words of the vocabulary; which query token met which passage token; how
    alike the passage's tokens are; and how the logit splits into the similarity at which the head
    begins and what it adds. Without --query, the same of an index: how alike its tokens are, which
    are met by queries at all, and what dropping the most alike costs. Needs torch.

    \b
    Example:
      dipair-index inspect --query "why do bees die" --passage honey-bees-6
      dipair-index inspect --query "tides" --text "The moon pulls the sea." --figure pair.html
      dipair-index inspect --sample 500 --json
      dipair-index inspect --over-training checkpoints
    """
    from dipair_index.cli._inspection_figures import check_figure

    if query is None and (passage or text):
        raise click.UsageError("--passage and --text need --query TEXT")
    if query is not None and (passage is None) == (text is None):
        raise click.UsageError("give either --passage ID or --text TEXT with --query")
    if query is not None and over_training is not None:
        raise click.UsageError("--over-training takes its pairs from --queries and an index")
    if figure is not None:
        check_figure(figure)
    require("inspect", "inspecting a model", *PACKAGES["torch"])
    at_default = ctx.get_parameter_source("index_dir") is ParameterSource.DEFAULT
    if text is None and at_default and lacks_sample(index_dir):
        build_sample(index_dir, model=options["model"], device=options["device"])
    found: Inspection
    if query is not None:
        found = _pair(index_dir, query, passage, text, options)
    elif over_training is not None:
        found = _course(index_dir, over_training, options)
    else:
        found = _used(index_dir, options)
    if figure is not None:
        from dipair_index.cli._inspection_figures import draw

        draw(found, figure)
        remark(f"wrote {figure}")
    if as_json:
        print_json(found.record(), indent=2)
    else:
        _show(found)


def _pair(
    index_dir: Path, query: str, passage: str | None, text: str | None, options: dict[str, Any]
) -> PairInspection:
    from dipair_index.encoders.dual_encoder import DualEncoder
    from dipair_index.rerank.inspection.pair import inspect_pair
    from dipair_index.rerank.inspection.words import Vocabulary
    from dipair_index.stores.snapshot import Snapshot

    model = options["model"]
    if text is None:
        with Snapshot.open(index_dir) as snapshot:
            text = snapshot.passages([str(passage)])[0].full_text
            model = model or snapshot.manifest.model
    encoder = DualEncoder.load(model, device=options["device"])
    size = options["vocabulary"]
    vocabulary = Vocabulary(encoder, "passage", size) if size else None
    return inspect_pair(encoder, query, text, vocabulary, nearest=NEAREST)


def _used(index_dir: Path, options: dict[str, Any]) -> UsedTokens:
    require("inspect", "inspecting an index", "ir_measures")
    from dipair_index.encoders.dual_encoder import DualEncoder
    from dipair_index.formats.trec import read_qrels
    from dipair_index.rerank.index import DiPairIndex
    from dipair_index.rerank.inspection.used import inspect_index
    from dipair_index.stores.snapshot import Snapshot

    queries = queries_or_sample(options["queries"])
    qrels = read_qrels(options["qrels"]) if options["qrels"] else None
    with Snapshot.open(index_dir) as snapshot:
        model = options["model"] or snapshot.manifest.model
        encoder = DualEncoder.load(model, device=options["device"])
        with (
            DiPairIndex.open(index_dir, encoder) as index,
            progress("Comparing", "queries") as report,
        ):
            return inspect_index(
                index, snapshot, encoder, queries, qrels, sample=options["sample"],
                candidates=options["candidates"], report=report,
            )  # fmt: skip


def _course(index_dir: Path, folder: Path, options: dict[str, Any]) -> Course:
    from dipair_index.rerank.inspection.over_training import inspect_course
    from dipair_index.rerank.inspection.used import evenly_spaced
    from dipair_index.stores.snapshot import Snapshot

    queries = [query.text for query in queries_or_sample(options["queries"])]
    with Snapshot.open(index_dir) as snapshot:
        ids = evenly_spaced(snapshot, options["sample"])
        passages = [passage.full_text for passage in snapshot.passages(ids)]
    with progress("Inspecting", "models") as report:
        return inspect_course(folder, queries, passages, device=options["device"], report=report)


# ==== Tables ====


def _show(found: Inspection) -> None:
    from dipair_index.rerank.inspection.over_training import Course
    from dipair_index.rerank.inspection.pair import PairInspection

    if isinstance(found, PairInspection):
        _show_pair(found)
    elif isinstance(found, Course):
        _show_course(found)
    else:
        _show_used(found)


def _show_course(found: Course) -> None:
    columns = [
        "checkpoint", "mean cosine", "effective rank", "spread of similarity", "spread of addition"
    ]  # fmt: skip
    rows = ([each[0], *(f"{value:.3f}" for value in each[1:])] for each in found.moments)
    table(columns, rows, numbers=columns[1:])
    remark(
        f"{counted(found.queries, 'query', 'queries')} with {counted(found.passages, 'passage')}"
    )


def _show_pair(found: PairInspection) -> None:
    columns = ["query token", "stands for", "met passage token", "which stands for", "similarity"]
    table(
        columns,
        (
            [
                str(each.token),
                _in_words(each.words),
                str(each.met),
                _in_words(found.tokens[each.met].words),
                f"{each.similarity:.3f}",
            ]
            for each in found.meetings
        ),
        numbers=["similarity"],
    )
    say("")
    table(
        ["passage token", "stands for", "near in the vocabulary", "length"],
        (
            [str(each.token), _in_words(each.words), _in_words(each.nearest), f"{each.norm:.2f}"]
            for each in found.tokens
        ),
        numbers=["length"],
    )
    alike, logit = found.redundancy, found.logit
    remark(
        f"{counted(alike.tokens, 'token')} of the passage, mean cosine {alike.mean_cosine:.3f}, "
        f"effective rank {alike.effective_rank:.1f}"
    )
    remark(
        f"logit {logit.logit:.3f} = similarity {logit.similarity:.3f} + "
        f"the head's addition {logit.added:.3f}"
    )


def _show_used(found: UsedTokens) -> None:
    by = "by the judgements" if found.judged else "by the order with all tokens"
    columns = ["share of the tokens", "tokens a passage", f"nDCG@10 {by}"]
    table(
        columns,
        ([f"{each.share:.3f}", f"{each.tokens:.1f}", f"{each.measure:.4f}"] for each in found.kept),
        numbers=columns,
    )
    remark(
        f"{counted(found.passages, 'passage')} of the index: {found.tokens:.1f} tokens each, mean "
        f"cosine {found.mean_cosine:.3f}, effective rank {found.effective_rank:.1f}"
    )
    remark(
        f"{counted(found.queries, 'query', 'queries')} met {found.met:.1%} of the tokens of their "
        f"{counted(found.candidates, 'candidate')}"
    )


def _in_words(words: list[Word]) -> str:
    return ", ".join(f"{each.word} {each.weight:.2f}" for each in words[:MOST_SHOWN]) or "-"
