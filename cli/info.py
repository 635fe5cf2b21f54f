"""`dipair-index info`: describes an index, or estimates its size before it is built."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dipair_index.cli._amounts import size_in_words, time_in_words
from dipair_index.cli._console import print_json, remark, table
from dipair_index.cli._encoding import command_for
from dipair_index.cli._options import index_dir_option, json_option
from dipair_index.cli._types import COUNT, Whole
from dipair_index.models.licences import licence_of_model
from dipair_index.stores.names import CODEC_NAMES, STORE_NAMES
from dipair_index.words import counted

if TYPE_CHECKING:
    from dipair_index.rerank.unfinished import BuildProgress
    from dipair_index.stores.estimate import Estimate
    from dipair_index.stores.index_info import IndexInfo


@click.command()
@index_dir_option("Describe this index, or estimate from its sizes")
@click.option(
    "--estimate", is_flag=True, help="Estimate what an index of --passages passages takes"
)
@click.option(
    "--passages",
    type=Whole(1, largest=10**15),
    default=1_000_000,
    show_default=True,
    help="Estimate for this many passages",
)
@click.option("--store", type=click.Choice(STORE_NAMES), help="Estimate for this token store")
@click.option("--codec", type=click.Choice(CODEC_NAMES), help="Estimate for this codec")
@click.option("--ann", metavar="flat|hnsw|ivf|FACTORY", help="Estimate for this FAISS index")
@click.option(
    "--max-passage-tokens", type=COUNT, help="Estimate for this many kept tokens of each passage"
)
@click.option("--dim", type=COUNT, help="Estimate for token embeddings of this many dimensions")
@click.option("--vector-dim", type=COUNT, help="Estimate for vectors of this many dimensions")
@json_option()
@click.pass_context
def info(
    ctx: click.Context,
    /,
    index_dir: Path,
    estimate: bool,
    passages: int,
    as_json: bool,
    **settings: Any,
) -> None:
    """Describe an index, or estimate its bytes, memory and time before it is built.

    An estimate is based on the sizes of the index in --index-dir if there is one, or else on
    figures measured with the bundled model.

    \b
    Example:
      dipair-index info --index-dir passages.index
      dipair-index info --estimate --passages 10000000 --codec int4 --ann hnsw
    """
    from dipair_index.stores.manifest import MANIFEST

    chosen = {name: value for name, value in settings.items() if value is not None}
    if not estimate and (chosen or _is_given(ctx, "passages")):
        option = next(iter(chosen), "passages").replace("_", "-")
        raise click.UsageError(f"--{option} is part of an estimate: pass --estimate too")
    is_there = (index_dir / MANIFEST).exists()
    if not estimate and (is_there or index_dir.exists() or _is_given(ctx, "index_dir")):
        _describe(index_dir, as_json=as_json)
        return
    if not estimate:
        remark(f"there is no index at {index_dir}: build one with `dipair-index build`")
    elif not is_there and _is_given(ctx, "index_dir"):
        remark(f"there is no index at {index_dir}")
    from dipair_index.stores.estimate import Basis

    basis = Basis.from_index(index_dir) if is_there else Basis()
    estimated = basis.estimate(passages, **chosen)
    remark(f"estimate for {counted(passages, 'passage')}, based on {basis.source}")
    _show(estimated, as_json=as_json)


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not ParameterSource.DEFAULT


# ==== An index ====


def _describe(index_dir: Path, *, as_json: bool) -> None:
    from dipair_index.errors import DirectoryError
    from dipair_index.rerank.unfinished import read_progress
    from dipair_index.stores.index_directory import Layout
    from dipair_index.stores.index_info import IndexInfo

    layout = Layout(index_dir)
    begun = read_progress(layout.building)
    if begun and not layout.manifest.exists():
        raise DirectoryError(
            f"{index_dir} holds no index yet, but {counted(begun.passages, 'passage')} of an "
            f"unfinished build: go on with it by `{command_for('build', index_dir)} --resume` "
            "and its corpus"
        )
    found = IndexInfo.read(index_dir)
    if as_json:
        print_json(_record(index_dir, found, begun), indent=2)
        return
    manifest, sizes = found.manifest, found.sizes
    licence = licence_of_model(manifest.model)
    deleted = found.stored - manifest.passages
    rows = {
        "passages": f"{manifest.passages:,}",
        "deleted": f"{deleted:,}, which `{command_for('compact', index_dir)}` removes"
        if deleted
        else "0",
        "parts": f"{len(manifest.parts):,}",
        "side": manifest.side,
        "model": f"{manifest.model} ({manifest.model_fingerprint})",
        "licence": str(licence or "not stated by the model's card"),
        "tokens": f"{manifest.max_query_tokens} of a query, {manifest.max_passage_tokens} of a "
        f"passage, {manifest.dim} dimensions",
        "store": f"{manifest.store}, {manifest.codec}"
        + (f", below {manifest.store_url}" if manifest.store_url else ""),
        "vectors": f"{manifest.embedder} ({manifest.embedder_fingerprint}), "
        f"{manifest.vector_dim} dimensions",
        "ANN": manifest.ann_kind,
        **({"words": "BM25"} if manifest.lexical else {}),
        "long passages": f"{manifest.truncated:,} {manifest.long}",
        "created": f"{manifest.created} by dipair-index {manifest.package_version}, "
        f"format {_format_version()}",
    }
    if begun:
        rows["unfinished"] = (
            f"{counted(begun.passages, 'passage')} of {begun.settings['command']}: go on with "
            "--resume, unless it is running"
        )
    names = ("tokens", "vectors", "texts", "words", "total")
    for name, size in zip(names, (*sizes[:4], sizes.total), strict=True):
        if name == "words" and not manifest.lexical:
            continue
        each = f", {size / found.stored:,.0f} a passage" if found.stored else ""
        rows[f"bytes of {name}" if name != "total" else "bytes in all"] = f"{size:,}{each}"
    table(["index", str(index_dir)], ([name, value] for name, value in rows.items()))


def _format_version() -> int:
    from dipair_index.stores.manifest import FORMAT_VERSION

    return FORMAT_VERSION


def _record(index_dir: Path, found: IndexInfo, begun: BuildProgress | None) -> dict[str, Any]:
    """The description of an index as JSON."""
    licence = licence_of_model(found.manifest.model)
    manifest, sizes = found.manifest, {**found.sizes._asdict(), "total": found.sizes.total}
    return {
        "index_dir": str(index_dir),
        "format_version": _format_version(),
        "passages": manifest.passages,
        "deleted": found.stored - manifest.passages,
        "parts": len(manifest.parts),
        **{
            name: getattr(manifest, name)
            for name in (
                "side", "kept_tokens", "model", "model_fingerprint", "max_query_tokens",
                "max_passage_tokens", "dim",
                "embedder", "embedder_fingerprint", "vector_dim", "store", "store_url", "codec",
                "ann_kind", "lexical", "long", "overlap",
                "seed", "truncated", "generation", "created",
                "package_version", "library_versions",
            )
        },
        "model_licence": licence and licence._asdict(),
        "bytes": sizes,
        "bytes_per_passage": found.bytes_per_passage(),
        "unfinished": begun
        and {"command": begun.settings["command"], "passages": begun.passages},
    }  # fmt: skip


# ==== An estimate ====


def _show(estimate: Estimate, *, as_json: bool) -> None:
    if as_json:
        print_json(estimate.record(), indent=2)
        return
    rows = [
        [name, f"{size / estimate.passages:,.0f}", size_in_words(size)]
        for name, size in estimate.sizes.items()
    ]
    rows += [[name, "", size_in_words(size)] for name, size in estimate.peaks.items()]
    rows += [
        [f"time to {name}", "", "not measured" if seconds is None else time_in_words(seconds)]
        for name, seconds in estimate.seconds.items()
    ]
    columns = ["what", "bytes a passage", "in all"]
    table(columns, rows, numbers=columns[1:])
