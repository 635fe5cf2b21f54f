"""DiPair beside its peers: time, bytes, memory and quality of reranking the same candidates.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/peers.py --data msmarco --folder peers \
        --teacher reranker_en --colbert colbert --threads 2

`--data` holds `collection.tsv` and `dl19/`. Each query of TREC DL 2019 has BM25's top 100 as its
candidates; 1,000 candidates are these and other queries' of the same run. A time is that of one
query from its text to the scores: encoding it, gathering what is stored of the candidates (from a
memory map), scoring. What a system stores is made before, in a process of its own.

Each system runs in its own process, so that its peak of memory is its own, and its row is kept in
`--folder/rows.jsonl`: a run that was interrupted goes on, `--again NAME` measures one anew. Then
`--folder/peers.md` and `peers.png` are made of the rows that are there. With `--clock cpu` times
are this process's CPU seconds, for a busy machine (with `--threads 1`).

`--teacher` and `--colbert` are folders with `model.onnx` and `tokenizer.json`; FlashRank,
sentence-transformers, PyLate and matplotlib are needed for the rows and the plot that name them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import peer_systems as systems
from resume import claim

from dipair_index.evaluation.bootstrap import Bootstrap, JudgedRuns, evaluate
from dipair_index.formats.collections import read_passages, read_queries
from dipair_index.formats.trec import read_qrels, read_run
from dipair_index.rerank.bench import peak_memory
from dipair_index.threads import limit_threads

BERTS = "sentence-transformers, published, BM25's top 1000"
# name: how it is opened, pairs a call it can bear, and published nDCG@10 on DL19 with its source
SYSTEMS: dict[str, tuple[Any, int, float | None, str]] = {
    "MiniLM-L12 int8 (FlashRank)": (systems.flashrank, 100, None, ""),
    "MiniLM-L12 int8, batches of 8": (systems.teacher, 100, None, ""),
    "CrossEncoder BERT-base*": (systems.cross_encoder(12, 768, 12, 3072), 100, None, ""),
    "CrossEncoder MiniLM-L6*": (systems.cross_encoder(6, 384, 12, 1536), 100, 0.7430, BERTS),
    "CrossEncoder TinyBERT-L2*": (systems.cross_encoder(2, 128, 2, 512), 1000, 0.6984, BERTS),
    "ColBERT small, backbone, 384": (systems.colbert(None), 1000, None, ""),
    "ColBERT small, 128 of 384*": (systems.colbert(128), 1000, None, ""),
    "ColBERT small, PyLate's rerank": (systems.pylate, 1000, None, ""),
    "MaxSim over DiPair's store": (systems.maxsim, 1000, None, ""),
    "de-cos*": (systems.system("de-cos"), 1000, None, ""),
    "de-ffnn*": (systems.system("de-ffnn"), 1000, None, ""),
    "DiPair": (systems.dipair(), 1000, None, ""),
    "DiPair, bfloat16": (systems.dipair(precision="bfloat16"), 1000, None, ""),
    "DiPair, ONNX Runtime": (systems.dipair(backend="onnx"), 1000, None, ""),
}
STORELESS = [name for name, (_, most, *_) in SYSTEMS.items() if most < 1000]
RUN = ("data", "model", "threads", "clock", "queries")
"""The arguments that change what a row gives: they are the same for all rows of a folder."""
WARM_UP = 3
RANDOM = "*"
"""Marks random weights: no quality is measured."""


def setting_of(arguments: argparse.Namespace) -> tuple[systems.Setting, dict[str, list[int]], Any]:
    """What is scored: the passages, each query's 100 rows among them, and queries and qrels."""
    judged = arguments.data / "dl19"
    run = read_run(judged / "run.bm25.trec")
    queries = {each.query_id: each.text for each in read_queries(judged / "queries.tsv")}
    run = {name: run[name] for name in islice(run, arguments.queries)}
    wanted = sorted({passage_id for scores in run.values() for passage_id in scores})
    texts = {p.passage_id: p.full_text for p in read_passages(arguments.data / "collection.tsv")}
    row = {passage_id: place for place, passage_id in enumerate(wanted)}
    setting = systems.Setting(
        [texts[passage_id] for passage_id in wanted],
        arguments.folder,
        arguments.model,
        arguments.teacher,
        arguments.colbert,
        arguments.threads,
    )
    rows = {name: [row[each] for each in scores] for name, scores in run.items()}
    return setting, rows, (queries, run, judged / "qrels.txt")


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures one system in this process."""
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    setting, rows, (queries, run, qrels) = setting_of(arguments)
    opener, most, published, source = SYSTEMS[name]
    stored = opener(setting)
    if arguments.prepare:
        return {}
    names = list(rows)
    every = list(range(len(setting.passages)))

    def spent(query_id: str, count: int) -> float:
        mine = rows[query_id]
        first = set(mine)
        everyone = cycle([*mine, *(each for each in every if each not in first)])
        asked = list(islice(everyone, count))
        started = clock()
        stored.score(queries[query_id], asked)
        return 1000 * (clock() - started)

    found: dict[str, Any] = {"system": name, "bytes": stored.bytes_per_passage}
    for count in (100, 1000):
        if count > most:
            # nothing is shared between the pairs of a cross-encoder
            found[f"ms_{count}"] = found["ms_100"] * count / 100
            continue
        until = time.monotonic() + arguments.seconds
        for query_id in names[:WARM_UP]:
            # each new shape of a batch costs torch some time once
            spent(query_id, count)
            if time.monotonic() > until:
                break
        times, until = [], time.monotonic() + arguments.seconds
        for query_id in names * 5:
            times.append(spent(query_id, count))
            if len(times) >= 3 and time.monotonic() > until:
                break
        found[f"ms_{count}"], found[f"times_{count}"] = statistics.median(times), len(times)
    found["peak_mib"] = (peak_memory() or 0) / 2**20
    if not name.endswith(RANDOM) and not arguments.no_quality:
        scored = {}
        for query_id, mine in rows.items():
            scores = stored.score(queries[query_id], mine).tolist()
            scored[query_id] = dict(zip(run[query_id], scores, strict=True))
        judged = JudgedRuns(read_qrels(qrels), {name: scored})
        (result,) = evaluate(judged, ["nDCG@10"], Bootstrap(name, resamples=0))
        found["ndcg"] = result.value
    return {
        **found,
        "published": published,
        "source": source,
        "clock": arguments.clock,
        "threads": arguments.threads,
        "load": os.getloadavg()[0],
    }


def run_all(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One process a system, those aside whose row is there; a system that fails is left out."""
    claim(arguments.folder, arguments, RUN)
    file = arguments.folder / "rows.jsonl"
    file.touch()
    rows = {row["system"]: row for row in map(json.loads, file.read_text().splitlines())}
    for name in arguments.only or SYSTEMS:
        if name in rows and name not in arguments.again:
            continue
        command = [sys.executable, *sys.argv, "--row", name]
        if name not in STORELESS:
            # else the peak of memory would be that of encoding
            subprocess.run([*command, "--prepare"], stdout=subprocess.DEVNULL)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{name}: left out, see above", file=sys.stderr)
            continue
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        file.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
        print(done.stdout, end="", flush=True)
    return [rows[name] for name in SYSTEMS if name in rows]


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| system | pairs/s | ms, 100 | ms, 1,000 | bytes | peak MiB | nDCG@10 | published |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        quality, published = row.get("ndcg"), row["published"]
        cells = [row["system"], f"{1e6 / row['ms_1000']:,.0f}"]
        cells += [f"{row['ms_100']:,.1f}", f"{row['ms_1000']:,.0f}"]
        cells += [f"{row['bytes']:,.0f}", f"{row['peak_mib']:,.0f}"]
        cells += [f"{quality:.4f}" if quality else "", f"{published:.4f}" if published else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", "`*` random weights or cut vectors: for the time alone.", ""])


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Quality against time; the area of a mark grows with the bytes, hollow ones are published."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    # labels of neighbours at different heights
    heights = cycle((14, -18, 30, -32))
    for row in sorted(rows, key=lambda row: float(row["ms_100"])):
        quality = row.get("ndcg") or row["published"]
        if not quality:
            continue
        measured = bool(row.get("ndcg"))
        colour = "tab:red" if row["system"].startswith("DiPair") else "tab:blue"
        size = 30 + row["bytes"] ** 0.5
        axes.scatter(
            row["ms_100"],
            quality,
            size,
            edgecolors=colour,
            facecolors=colour if measured else "none",
        )
        label = row["system"].rstrip(RANDOM) + ("" if measured else " (published)")
        axes.annotate(
            label,
            (row["ms_100"], quality),
            xytext=(0, next(heights)),
            textcoords="offset points",
            fontsize=8,
            ha="center",
            arrowprops={"arrowstyle": "-", "lw": 0.4},
        )
    axes.set_xscale("log")
    axes.set_xlabel(
        f"ms to rerank 100 candidates, {rows[0]['threads']} threads, {rows[0]['clock']}"
    )
    axes.set_ylabel("nDCG@10, TREC DL 2019, BM25's top 100")
    axes.grid(alpha=0.3)
    axes.margins(x=0.25, y=0.1)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for rows and what is stored")
    parser.add_argument("--model", default="default")
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--colbert", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--queries", type=int, default=43)
    parser.add_argument("--seconds", type=float, default=15, help="for each time, at the most")
    parser.add_argument("--no-quality", action="store_true")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, metavar="NAME")
    parser.add_argument("--again", nargs="+", choices=SYSTEMS, metavar="NAME", default=[])
    parser.add_argument("--row", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    limit_threads(arguments.threads)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.row:
        print(json.dumps(measure(arguments.row, arguments)))
        return
    rows = run_all(arguments)
    (arguments.folder / "peers.md").write_text(table(rows))
    print(table(rows))
    if any(row.get("ndcg") or row["published"] for row in rows):
        plot(rows, arguments.folder / "peers.png")


if __name__ == "__main__":
    main()
