"""`dipair-index build`: from a collection to an index directory."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dipair_index.cli.console import progress, remark
from dipair_index.cli.torch_device import prepare_torch

if TYPE_CHECKING:
    from dipair_index.dual_encoder import DualEncoder
    from dipair_index.records import Passage
    from dipair_index.rerank.build import BuildSummary

DEFAULT_INDEX = Path("dipair.index")


@click.command()
@click.option(
    "--corpus",
    metavar="FILE",
    help="Read passages from TSV, JSONL or a BEIR folder, .gz too, - for stdin  "
    "[default: the bundled sample]",
)
@click.option(
    "--index-dir",
    type=click.Path(path_type=Path),
    default=DEFAULT_INDEX,
    show_default=True,
    help="Write the index into this directory",
)
@click.option("--model", help="Encode with this DiPair model  [default: the bundled one]")
@click.option(
    "--vectors",
    default="model",
    show_default=True,
    metavar="model|use|NAME",
    help="Retrieve with the model's own vectors, with USE, or with a transformers encoder",
)
@click.option(
    "--store",
    type=click.Choice(["lmdb"]),
    default="lmdb",
    show_default=True,
    help="Keep token embeddings in this kind of store",
)
@click.option(
    "--codec",
    type=click.Choice(["float32", "float16", "int8"]),
    default="int8",
    show_default=True,
    help="Keep each number of a token embedding as this",
)
@click.option(
    "--ann",
    metavar="flat|hnsw|ivf|FACTORY",
    help="Search vectors with this kind of FAISS index  [default: flat, or that of --ann-from]",
)
@click.option(
    "--ann-from",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Take over the vectors of this dataset or index directory",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Encode this many passages at once",
)
@click.option("--device", default="cpu", show_default=True, help="Encode on this torch device")
@click.option("--seed", default=0, show_default=True, help="Train the FAISS index with this seed")
@click.option("--resume", is_flag=True, help="Go on with an interrupted build")
@click.option("--overwrite", is_flag=True, help="Replace an index that exists")
@click.pass_context
def build(
    ctx: click.Context,
    corpus: str | None,
    index_dir: Path,
    model: str | None,
    vectors: str,
    store: str,
    codec: str,
    ann: str | None,
    ann_from: Path | None,
    batch_size: int,
    device: str,
    seed: int,
    resume: bool,
    overwrite: bool,
) -> None:
    """Encode passages into an index directory.

    Each passage is encoded once: its first token embeddings go into a store, and one vector into
    a FAISS index. With nothing added, the bundled sample is indexed into ./dipair.index.

    \b
    Example:
      dipair-index build --corpus passages.tsv --index-dir passages.index
      zcat passages.jsonl.gz | dipair-index build --corpus - --ann hnsw
    """
    from dipair_index.formats import read_passages
    from dipair_index.stores.index_directory import refuse_target

    untouched = all(
        ctx.get_parameter_source(name) is ParameterSource.DEFAULT for name in ctx.params
    )
    if untouched and is_sample_index(index_dir):
        remark(f"{index_dir} is an index of the bundled sample already: {_next(index_dir)}")
        return
    refuse_target(index_dir, overwrite=overwrite)
    if corpus is None:
        remark(f"no --corpus given: indexing the bundled sample into {index_dir}")
    # the first line is read before the model is, so that a wrong path is said at once
    passages = read_passages(_sample() if corpus is None else corpus)
    passages = chain([next(passages)], passages)
    _build(
        passages,
        index_dir,
        _load(model, device, batch_size),
        again="the same command with --resume",
        vectors=vectors,
        codec=codec,
        ann=ann,
        ann_from=ann_from,
        seed=seed,
        resume=resume,
        overwrite=overwrite,
    )


def build_sample(index_dir: Path, *, model: str | None, device: str) -> None:
    """Builds the bundled sample's index for a command that finds none, and says so."""
    from dipair_index.formats import read_passages

    remark(f"there is no index at {index_dir}: building one of the bundled sample first")
    _build(
        read_passages(_sample()),
        index_dir,
        _load(model, device),
        again="the same command",
        resume=True,
    )


def is_sample_index(index_dir: Path) -> bool:
    """Whether the directory is a finished index of the bundled sample by the bundled model."""
    from dipair_index.stores.index_directory import Layout, Manifest

    if not Layout(index_dir).is_finished():
        return False
    from dipair_index.digests import TextsDigest
    from dipair_index.formats import read_passages

    manifest, digest = Manifest.read(index_dir), TextsDigest()
    for passage in read_passages(_sample()):
        digest.update([passage.passage_id], [passage.full_text])
    return (
        manifest.passages_digest == digest.hexdigest()
        and manifest.model_fingerprint == _load(None, "cpu").fingerprint
    )


def _load(model: str | None, device: str, batch_size: int = 64) -> DualEncoder:
    from dipair_index.dual_encoder import DualEncoder

    prepare_torch(device)
    return DualEncoder.load(model, device=device, batch_size=batch_size)


def _sample() -> Path:
    from dipair_index.msmarco import sample_folder

    return sample_folder() / "collection.tsv"


def _build(
    passages: Iterable[Passage],
    index_dir: Path,
    encoder: DualEncoder,
    *,
    again: str,
    **settings: Any,
) -> None:
    """Runs the build with its progress; says what it did, or what it leaves and how to go on."""
    from dipair_index.errors import DiPairError
    from dipair_index.rerank.build import build_index
    from dipair_index.stores.index_directory import working_directory

    working = working_directory(index_dir)
    before = _stored(working)
    try:
        with progress("Encoding", "passages") as report:
            summary = build_index(passages, index_dir, encoder, report=report, **settings)
    except KeyboardInterrupt as stop:
        stored = _stored(working)
        raise KeyboardInterrupt(
            f"interrupted: {stored:,} passages are stored in {working}, run {again} to go on"
            if stored
            else "interrupted before anything was stored"
        ) from stop
    except (DiPairError, OSError):
        if _stored(working) > before:
            remark(f"{_stored(working):,} passages are stored in {working}: run {again} to go on")
        raise
    _describe(summary, index_dir)


def _stored(working: Path) -> int:
    from dipair_index.rerank.unfinished import read_progress

    begun = read_progress(working)
    return begun.passages if begun else 0


def _describe(summary: BuildSummary, index_dir: Path) -> None:
    rate = summary.encoded / max(summary.seconds, 1e-9)
    before = summary.passages - summary.encoded
    resumed = f", {before:,} of them before" if before else ""
    remark(
        f"indexed {summary.passages:,} passages{resumed}: {summary.seconds:.1f} s, "
        f"{rate:,.0f} passages a second"
    )
    size = summary.token_bytes / summary.passages
    remark(f"token embeddings take {size:,.0f} bytes a passage on disk")
    if summary.truncated:
        remark(f"{summary.truncated:,} passages are longer than the model reads and were cut")
    remark(f"wrote {index_dir}: {_next(index_dir)}")


def _next(index_dir: Path) -> str:
    """Returns the command to type next."""
    where = "" if index_dir == DEFAULT_INDEX else f" --index-dir {shlex.quote(str(index_dir))}"
    return f'ask it with `dipair-index rerank{where} --query "..."`'
