"""`dipair-index bench`: measures how fast an index answers on this machine."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dipair_index.cli._asked import queries_or_sample
from dipair_index.cli._console import print_json, progress, remark, table
from dipair_index.cli._options import (
    backend_option,
    compute_options,
    index_dir_option,
    json_option,
    precision_option,
)
from dipair_index.cli._types import COUNT, LARGEST
from dipair_index.cli.build import build_sample, lacks_sample
from dipair_index.words import counted

if TYPE_CHECKING:
    from dipair_index.encoders.base import TextEncoder
    from dipair_index.models.systems import Backend, Precision
    from dipair_index.rerank.bench import SearchTimes
    from dipair_index.stores.index_info import IndexInfo


def _counts(_: click.Context, option: click.Parameter, text: str) -> list[int]:
    """Parses a list of counts, such as 100,1000."""
    try:
        counts = [int(part) for part in text.split(",")]
        if not all(1 <= count <= LARGEST for count in counts):
            raise ValueError
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not a list of whole numbers from 1 on: give one or more, such as "
            "100,1000",
            param=option,
        ) from error
    return list(dict.fromkeys(counts))


@click.command()
@index_dir_option("Measure this index")
@click.option(
    "--queries",
    metavar="FILE",
    help="Read queries from this TSV or JSONL file  [default: those of the bundled sample]",
)
@click.option("--model", help="Score with this DiPair model  [default: the one of the index]")
@click.option(
    "--candidates",
    default="100,1000",
    show_default=True,
    metavar="N,...",
    callback=_counts,
    help="Score this many candidates of each query; each number is measured by itself",
)
@click.option(
    "--repeat",
    type=COUNT,
    default=3,
    show_default=True,
    help="Repeat all queries this many times",
)
@json_option()
@compute_options("Compute")
@backend_option()
@precision_option()
@click.pass_context
def bench(
    ctx: click.Context,
    index_dir: Path,
    queries: str | None,
    model: str | None,
    candidates: list[int],
    repeat: int,
    as_json: bool,
    device: str,
    backend: Backend,
    precision: Precision,
) -> None:
    """Measure an index: time of each part of a search, pairs a second, bytes, memory.

    Queries are searched one at a time, after some to warm up. p50 and p95 are percentiles of the
    time: half, and 95 % of the searches, take no longer. Without --index-dir and an index in
    ./dipair.index, a temporary index of the bundled sample is measured.

    \b
    Example:
      dipair-index bench
      dipair-index bench --index-dir passages.index --queries queries.tsv --candidates 100
    """
    from dipair_index.encoders.open import backend_for, open_encoder
    from dipair_index.rerank.bench import forget_peak_memory, measure_searches, peak_memory
    from dipair_index.rerank.index import DiPairIndex
    from dipair_index.stores.index_info import IndexInfo
    from dipair_index.stores.manifest import Manifest

    texts = [query.text for query in queries_or_sample(queries)]
    default_index = ctx.get_parameter_source("index_dir") is ParameterSource.DEFAULT
    with ExitStack() as stack:
        if default_index and lacks_sample(index_dir):
            index_dir = Path(stack.enter_context(TemporaryDirectory())) / index_dir.name
            build_sample(index_dir, model=model, device=device, backend=backend)
        forget_peak_memory()  # that of the build is not the index's
        # says what is wrong with the index before a model is loaded
        manifest = Manifest.read(index_dir)
        started = time.perf_counter()
        encoder = open_encoder(
            model or manifest.model, backend=backend_for(precision, backend), device=device
        )
        index = stack.enter_context(DiPairIndex.open(index_dir, encoder, precision=precision))
        loaded = time.perf_counter() - started
        measured = []
        for count in candidates:
            if len(index) < count:
                held = counted(len(index), "passage")
                remark(f"the index holds {held}: each search scores them all")
            with progress(f"Timing {counted(count, 'candidate')}", "searches") as report:
                each = measure_searches(index, texts, count, repeat=repeat, report=report)
            measured.append(each)
        found = IndexInfo.read(index_dir)
        whole = {
            **_computing(encoder),
            "load_seconds": loaded,
            "peak_memory_bytes": peak_memory(),
        }
    if as_json:
        print_json(_record(index_dir, found, measured, whole), indent=2)
    else:
        _print(measured)
        remark(_remark(found, whole))


def _computing(encoder: TextEncoder) -> dict[str, Any]:
    """The library that computes, and its number of threads."""
    if encoder.backend == "torch":
        import torch

        threads = torch.get_num_threads()
    else:
        from dipair_index.threads import thread_count

        threads = thread_count()
    return {"backend": encoder.backend, "threads": threads}


def _record(
    index_dir: Path, found: IndexInfo, measured: list[SearchTimes], whole: dict[str, Any]
) -> dict[str, Any]:
    manifest = found.manifest
    return {
        "index_dir": str(index_dir),
        **{
            name: getattr(manifest, name)
            for name in ("passages", "model", "store", "codec", "ann_kind")
        },
        **whole,
        "bytes_per_passage": found.bytes_per_passage(),
        "measured": [each.record() for each in measured],
    }


def _print(measured: list[SearchTimes]) -> None:
    columns = ["candidates", "part", "p50 ms", "p95 ms", "pairs/s"]
    table(
        columns,
        (
            [
                f"{each.scored:,}",
                part,
                f"{spread.p50:.1f}",
                f"{spread.p95:.1f}",
                f"{each.pairs_per_second:,.0f}" if part == "score" else "",
            ]
            for each in measured
            for part, spread in each.milliseconds.items()
        ),
        numbers=["candidates", *columns[2:]],
    )


def _remark(found: IndexInfo, whole: dict[str, Any]) -> str:
    sizes = ", ".join(
        f"{name} {size:,.0f}"
        for name, size in found.bytes_per_passage().items()
        if size is not None and name in ("tokens", "vectors", "texts")
    )
    peak = whole["peak_memory_bytes"]
    memory = "not known" if peak is None else f"{peak / 2**20:,.0f} MiB"
    return (
        f"bytes a passage: {sizes}; peak memory {memory}; loaded in {whole['load_seconds']:.1f} s"
    )
