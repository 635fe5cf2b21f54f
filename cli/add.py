"""`dipair-index add` and `update`: adds passages to an index, or replaces them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dipair_index.cli._console import remark
from dipair_index.cli._encoding import describe, encoding, how_to_ask, read_corpus
from dipair_index.cli._options import (
    all_of,
    encoding_options,
    given_sides_option,
    index_dir_option,
)
from dipair_index.words import counted

if TYPE_CHECKING:
    from dipair_index.models.systems import Backend, EncodingPrecision

_options = all_of(
    click.option(
        "--corpus",
        metavar="FILE",
        help="Read passages from this TSV, JSONL or Parquet file, BEIR folder, irds:ID, "
        "hf:OWNER/NAME, or - for stdin",
    ),
    index_dir_option("Add the passages to this index"),
    click.option("--model", help="Encode with this DiPair model  [default: the one of the index]"),
    given_sides_option(
        "If the index is of a side whose tokens come from outside, take the items of this file"
    ),
    encoding_options("run", overwrite="Discard what an interrupted run left"),
)


@click.command()
@_options
def add(**options: Any) -> None:
    """Add passages to an index.

    Searches that run meanwhile see all of the new passages or none. An id that the index holds
    already is refused: `update` replaces its passage.

    \b
    Example:
      dipair-index add --corpus more.tsv
      cat more.jsonl | dipair-index add --corpus - --index-dir passages.index
    """
    _encode("add", **options)


@click.command()
@_options
def update(**options: Any) -> None:
    """Replace passages of an index, and add those that it does not hold.

    Searches that run meanwhile see all of the changes or none.

    \b
    Example:
      dipair-index update --corpus changed.tsv
    """
    _encode("update", **options)


def _encode(
    name: str,
    *,
    corpus: str | None,
    side: tuple[str, ...],
    index_dir: Path,
    model: str | None,
    batch_size: int | None,
    device: str,
    backend: Backend,
    encode_precision: EncodingPrecision,
    resume: bool,
    overwrite: bool,
) -> None:
    if (corpus is None) != bool(side):
        raise click.UsageError("give either --corpus FILE or --side SIDE=FILE")
    from dipair_index.encoders.given_sides import give_all, read_given
    from dipair_index.encoders.open import open_encoder
    from dipair_index.stores.manifest import Manifest

    # says what is wrong with the index, or with the corpus, before torch takes its seconds
    manifest = Manifest.read(index_dir)
    given = read_given(side)
    if given and set(given) != {manifest.side}:
        raise click.UsageError(
            f"{index_dir} holds items of the side {manifest.side}, not of {', '.join(given)}"
        )
    passages = read_corpus(corpus) if corpus else given[manifest.side].passages()
    encoder = open_encoder(
        model or manifest.model,
        backend=backend,
        device=device,
        batch_size=batch_size,
        precision=encode_precision,
    )
    give_all(encoder, given)
    from dipair_index.rerank.build import add_passages

    with encoding(index_dir, again="the same command with --resume") as report:
        summary = add_passages(
            passages,
            index_dir,
            encoder,
            update=name == "update",
            resume=resume,
            overwrite=overwrite,
            report=report,
        )
    added = summary.passages - summary.replaced
    what = f"added {counted(added, 'passage')}"
    if name == "update":
        what = f"replaced {counted(summary.replaced, 'passage')} and added {added:,}"
    describe(what, summary)
    now = Manifest.read(index_dir)
    remark(f"{index_dir} holds {counted(now.passages, 'passage')}: {how_to_ask(index_dir)}")
