"""Measures how fast torch and ONNX Runtime encode and index passages, beside the raw rate.

    python benchmarks/build.py --passages 512 --rounds 3

Every round runs each contender once over the same texts, so that what else the machine does falls
on all of them; a ratio is the median over the rounds of that within a round.

- torch, forward alone: the encoder's own forward pass over batches that are padded and in order of
  length beforehand; nothing is tokenised, projected or kept
- ONNX Runtime, forward alone: the same batches through the graph, which also projects
- build, torch, and build, ONNX Runtime: `build_index`, from passages to a finished index directory
- cold query: `dipair-index rerank --query` in a process of its own, with `--cold`
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from dipair_index.encoders.batches import padded_batches
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.encoders.onnx_encoder import OnnxEncoder
from dipair_index.formats.collections import read_passages
from dipair_index.formats.msmarco import sample_folder
from dipair_index.records import Passage
from dipair_index.rerank.build import build_index
from dipair_index.rerank.onnx_export import cosines
from dipair_index.threads import limit_threads, thread_count

Contender = Callable[[], object]


def sample(count: int) -> list[Passage]:
    """The bundled sample's passages, as often as needed, under ids of their own."""
    texts = cycle(read_passages(sample_folder() / "collection.tsv"))
    return [
        passage._replace(id=f"p{number}") for number, passage in enumerate(islice(texts, count))
    ]


def contenders(
    passages: list[Passage],
    by_torch: DualEncoder,
    by_onnx: OnnxEncoder,
    in_int8: OnnxEncoder,
    batch_size: int,
) -> dict[str, Contender]:
    texts = by_torch.tokenised("passage", [passage.full_text for passage in passages])
    batches = list(padded_batches(by_torch.tokenizer, texts, batch_size))

    @torch.inference_mode()
    def forward() -> None:
        encoder = by_torch.model.encoder_of("passage")
        for _, batch in batches:
            encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

    def build(encoder: DualEncoder | OnnxEncoder) -> Contender:
        def run() -> None:
            with TemporaryDirectory() as folder:
                build_index(passages, Path(folder) / "index", encoder)

        return run

    return {
        "torch, forward alone": forward,
        "ONNX Runtime, forward alone": lambda: by_onnx.encode_tokenised(texts),
        "build, torch": build(by_torch),
        "build, ONNX Runtime": build(by_onnx),
        "ONNX Runtime in int8, forward alone": lambda: in_int8.encode_tokenised(texts),
        "build, ONNX Runtime in int8": build(in_int8),
    }


def compare(
    runs: dict[str, Contender], count: int, rounds: int, clock: Callable[[], float]
) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = clock()
            run()
            seconds[name].append(clock() - started)
    raw = seconds["torch, forward alone"]
    print("contender\tpassages a second\trate over torch's forward pass")
    for name, spent in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(raw, spent, strict=True))
        print(f"{name}\t{count / statistics.median(spent):,.1f}\t{ratio:.2f}", flush=True)


def distance(
    by_torch: DualEncoder, by_onnx: OnnxEncoder, in_int8: OnnxEncoder, passages: list[Passage]
) -> None:
    texts = [passage.full_text for passage in passages[:64]]
    made, rounded, expected = (e.encode_passages(texts) for e in (by_onnx, in_int8, by_torch))
    worst = max(float(np.abs(one - other).max()) for one, other in zip(made, expected, strict=True))
    print(f"the largest difference of a number, tokens and vectors: {worst:.1e}")
    for name, one, other in zip(expected._fields, rounded, expected, strict=True):
        found = cosines(one, other)
        print(f"in int8, cosines of {name}: least {found.min():.5f}, mean {found.mean():.5f}")


def cold(model: str | None, passages: list[Passage], encoder: DualEncoder, rounds: int) -> None:
    """Measures wall-clock and CPU seconds of a process, ONNX Runtime and torch in turns."""
    with TemporaryDirectory() as folder:
        build_index(passages[:336], Path(folder) / "index", encoder)
        command = [str(Path(sys.executable).with_name("dipair-index")), "rerank"]
        command += ["--index-dir", f"{folder}/index", "--query", "why do honey bees dance"]
        spent: dict[str, list[tuple[float, float]]] = {"onnx": [], "torch": []}
        for _ in range(rounds):
            for backend, rows in spent.items():
                before, started = os.times(), time.perf_counter()
                subprocess.run([*command, "--backend", backend], check=True, capture_output=True)
                wall, after = time.perf_counter() - started, os.times()
                used = sum(after[2:4]) - sum(before[2:4])
                rows.append((wall, used))
    for backend, rows in spent.items():
        wall, used = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"cold query by {backend}: {wall:.2f} s, {used:.2f} s of CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a DiPair model with its ONNX graphs")
    parser.add_argument("--passages", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=thread_count())
    parser.add_argument("--cold", action="store_true", help="time cold queries too")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: this process's own seconds, for a machine that others use",
    )
    arguments = parser.parse_args()
    limit_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    by_torch = DualEncoder.load(arguments.model, batch_size=arguments.batch_size)
    by_onnx = OnnxEncoder.open(arguments.model, batch_size=arguments.batch_size)
    in_int8 = OnnxEncoder.open(arguments.model, batch_size=arguments.batch_size, precision="int8")
    passages = sample(arguments.passages)
    print(f"load {os.getloadavg()[0]:.1f}, {arguments.threads} threads, {arguments.clock} clock")
    if arguments.cold:
        cold(arguments.model, passages, by_torch, 5)
    distance(by_torch, by_onnx, in_int8, passages)
    runs = contenders(passages, by_torch, by_onnx, in_int8, arguments.batch_size)
    compare(runs, len(passages), arguments.rounds, clock)


if __name__ == "__main__":
    main()
