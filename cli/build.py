"""`dipair-index build`: encodes a collection into an index directory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dipair_index.cli._console import remark
from dipair_index.cli._encoding import (
    describe,
    encoding,
    how_to_ask,
    read_corpus,
    write_graphs,
)
from dipair_index.cli._options import encoding_options, index_dir_option
from dipair_index.cli._types import NOT_NEGATIVE_COUNT, TEXT
from dipair_index.stores.names import CODEC_NAMES, CUT, DEFAULT_CODEC, LONG, STORE_NAMES
from dipair_index.words import counted

if TYPE_CHECKING:
    from dipair_index.encoders.base import TextEncoder
    from dipair_index.models.systems import Backend, EncodingPrecision
    from dipair_index.records import Passage

PASSAGES_AT_ONCE = 1024
"""The passages that are read from an index at once."""


@click.command()
@click.option(
    "--corpus",
    metavar="FILE",
    help="Read passages from this TSV, JSONL or Parquet file, BEIR folder, irds:ID, hf:OWNER/NAME, "
    "or - for stdin  [default: the bundled sample]",
)
@click.option(
    "--from",
    "from_index",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Read the passages of this index instead, to encode them with another model",
)
@index_dir_option("Write the index into this directory")
@click.option("--model", help="Encode with this DiPair model  [default: the bundled one]")
@click.option(
    "--side",
    type=TEXT,
    metavar="SIDE[=FILE]",
    help="Index texts of this side of the model's tuples, such as query, to score pairs of two "
    "indexes with `match`; if the model takes the side's tokens from outside, index the items of "
    "FILE (.npy, .safetensors or .parquet)  [default: passage, which `rerank` ranks]",
)
@click.option(
    "--vectors",
    default="model",
    show_default=True,
    metavar="model|use|NAME",
    help="Retrieve by vectors of the model itself, of USE, or of a transformers encoder",
)
@click.option(
    "--store",
    type=click.Choice(STORE_NAMES),
    default="lmdb",
    show_default=True,
    help="Keep token embeddings in this kind of store",
)
@click.option(
    "--store-url",
    metavar="URL",
    help="Keep token embeddings below this s3://, gs:// or file:// URL, with --store tensorstore  "
    "[default: in the index directory]",
)
@click.option(
    "--codec",
    type=click.Choice(CODEC_NAMES),
    default=DEFAULT_CODEC,
    show_default=True,
    help="Store the numbers of token embeddings in this type",
)
@click.option(
    "--lexical",
    is_flag=True,
    help="Keep a BM25 index of the passages' words too, for rerank --first-stage lexical|both",
)
@click.option(
    "--long",
    type=click.Choice(LONG),
    default=CUT,
    show_default=True,
    help="Passages that are longer than the model reads: leave out their end, or split them into "
    "overlapping windows, of which the best counts",
)
@click.option(
    "--ann",
    metavar="flat|hnsw|ivf|FACTORY",
    help="Search the vectors with this kind of FAISS index  [default: flat, or that of --ann-from]",
)
@click.option(
    "--ann-from",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Reuse the vectors of this dataset or index directory",
)
@click.option(
    "--seed",
    type=NOT_NEGATIVE_COUNT,
    default=0,
    show_default=True,
    help="Random seed for the training of the FAISS index",
)
@encoding_options("build", overwrite="Replace an index that exists")
@click.pass_context
def build(
    ctx: click.Context,
    /,
    corpus: str | None,
    from_index: Path | None,
    index_dir: Path,
    model: str | None,
    side: str | None,
    store: str,
    store_url: str | None,
    batch_size: int | None,
    device: str,
    backend: Backend,
    encode_precision: EncodingPrecision,
    overwrite: bool,
    **settings: Any,
) -> None:
    """Encode passages into an index directory.

    Each passage is encoded once: its first token embeddings go into a store, and one vector into
    a FAISS index. Without options, the bundled sample is indexed into ./dipair.index.

    \b
    Example:
      dipair-index build --corpus passages.tsv --index-dir passages.index
      zcat passages.jsonl.gz | dipair-index build --corpus - --ann hnsw
      dipair-index build --corpus passages.tsv --lexical
      dipair-index build --corpus manuals.tsv --long split
      dipair-index build --corpus passages.tsv --store tensorstore --store-url s3://bucket/tokens
      dipair-index build --corpus queries.tsv --side query --index-dir queries.index
      dipair-index build --side passage=images.parquet --model images.model
      dipair-index build --from old.index --index-dir new.index
    """
    from dipair_index.encoders.given_sides import give_all, read_given
    from dipair_index.encoders.open import open_encoder
    from dipair_index.stores.index_directory import check_target
    from dipair_index.stores.manifest import Manifest

    _refuse_url(store, store_url)
    if corpus is not None and from_index is not None:
        raise click.UsageError("--corpus and --from exclude each other: leave out one")
    untouched = all(
        ctx.get_parameter_source(name) is ParameterSource.DEFAULT for name in ctx.params
    )
    if untouched and is_sample_index(index_dir):
        remark(f"{index_dir} is an index of the bundled sample already: {how_to_ask(index_dir)}")
        return
    overwrite = overwrite or (untouched and is_former_sample(index_dir))
    check_target(index_dir, overwrite=overwrite)
    given = read_given([side] if side and "=" in side else [])
    if given and (corpus is not None or from_index is not None):
        raise click.UsageError(
            "--side names a file of items already: leave --corpus and --from out"
        )
    passages: Iterable[Passage]
    if given:
        ((side, items),) = given.items()
        passages = items.passages()
    elif from_index is not None:
        passages = passages_of_index(from_index)
        side = side or Manifest.read(from_index).side
    else:
        if corpus is None:
            remark(f"no --corpus given: indexing the bundled sample into {index_dir}")
        passages = read_corpus(_sample() if corpus is None else corpus)
    encoder = open_encoder(
        model, backend=backend, device=device, batch_size=batch_size, precision=encode_precision
    )
    give_all(encoder, given)
    _build(
        passages,
        index_dir,
        encoder,
        backend,
        again="the same command with --resume",
        side=side,
        store=store,
        store_url=store_url or "",
        overwrite=overwrite,
        **settings,
    )
    ask = how_to_ask(index_dir) if side in (None, "passage") else "score pairs of it with `match`"
    remark(f"wrote {index_dir}: {ask}")


def build_sample(
    index_dir: Path, *, model: str | None, device: str, backend: Backend = "auto"
) -> None:
    """Builds the index of the bundled sample that `lacks_sample` misses, and says so."""
    from dipair_index.encoders.open import open_encoder
    from dipair_index.errors import DirectoryError
    from dipair_index.stores.index_directory import check_target

    former = is_former_sample(index_dir)
    check_target(index_dir, overwrite=former)
    remark(
        f"{index_dir} is of another version's default model: building the bundled sample's anew"
        if former
        else f"there is no index at {index_dir}: building one of the bundled sample first"
    )
    encoder = open_encoder(model, backend=backend, device=device)
    again = "the same command"
    try:
        how = {"overwrite": True} if former else {"resume": True}
        _build(read_corpus(_sample()), index_dir, encoder, backend, again=again, **how)
    except DirectoryError as error:
        raise DirectoryError(
            f"{error}. To finish what was begun there, run its `dipair-index build` with --resume"
        ) from error


def lacks_sample(index_dir: Path) -> bool:
    """Whether a command without options builds the bundled sample's index there first."""
    from dipair_index.stores.manifest import MANIFEST

    return not (index_dir / MANIFEST).exists() or is_former_sample(index_dir)


def is_sample_index(index_dir: Path) -> bool:
    """Whether the directory is a finished index of the bundled sample by the bundled model."""
    return _is_of_sample(index_dir, former=False)


def is_former_sample(index_dir: Path) -> bool:
    """Whether it is one by the bundled model of another version, which today's cannot search."""
    return _is_of_sample(index_dir, former=True)


def _is_of_sample(index_dir: Path, *, former: bool) -> bool:
    from dipair_index.stores.index_directory import Layout

    if not Layout(index_dir).is_finished():
        return False
    from dipair_index.models.packaged import DEFAULT_MODEL, default_model_folder
    from dipair_index.onnx.graphs import OnnxRecord
    from dipair_index.stores.manifest import Manifest

    manifest = Manifest.read(index_dir)
    today = manifest.model_fingerprint == OnnxRecord.read(default_model_folder()).fingerprint
    if manifest.model != DEFAULT_MODEL or today == former:
        return False
    from dipair_index.digests import TextsDigest
    from dipair_index.formats.collections import read_passages

    digest = TextsDigest()
    for passage in read_passages(_sample()):
        digest.update([passage.passage_id], [passage.full_text])
    return manifest.passages_digest == digest.hexdigest()


def passages_of_index(index_dir: Path) -> Iterator[Passage]:
    """Yields the passages that an index holds, with their metadata."""
    from dipair_index.stores.snapshot import Snapshot

    with Snapshot.open(index_dir) as snapshot:
        for start in range(0, len(snapshot), PASSAGES_AT_ONCE):
            yield from snapshot.passages(snapshot.ids_between(start, start + PASSAGES_AT_ONCE))


def _refuse_url(store: str, url: str | None) -> None:
    if url and store != "tensorstore":
        raise click.UsageError(
            f"--store-url needs --store tensorstore: {store} keeps tokens in the index directory"
        )
    if url and url.startswith("memory://"):
        raise click.UsageError(
            f"--store-url {url} would not outlive this command: give s3://, gs:// or file://"
        )


def _sample() -> Path:
    from dipair_index.formats.msmarco import sample_folder

    return sample_folder() / "collection.tsv"


def _build(
    passages: Iterable[Passage],
    index_dir: Path,
    encoder: TextEncoder,
    backend: Backend,
    *,
    again: str,
    **settings: Any,
) -> None:
    """Runs the build, shows its progress and prints a summary."""
    from dipair_index.rerank.build import build_index

    with encoding(index_dir, again=again) as report:
        summary = build_index(passages, index_dir, encoder, report=report, **settings)
    if backend == "auto":  # so that the index is asked without torch
        write_graphs(encoder)
    describe(f"indexed {counted(summary.passages, 'passage')}", summary)
    size = summary.token_bytes / summary.passages
    remark(f"token embeddings take {size:,.0f} bytes a passage on disk")
