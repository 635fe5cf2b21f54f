"""Measures the peak memory of a build, and the share that grows with the corpus.

    python benchmarks/build_memory.py --passages 10000 100000

Each size is built in a process of its own, by a random model of the default one's measures (vectors
of 384, M=8, D=256) with one thin layer, from short texts that are made one by one. "own" is memory
that no file stands for, over what a first small build has left, after which torch and FAISS have
what they need once. FAISS holds the vectors of a flat index in memory while it is built, 4 * 384
bytes a passage: "less FAISS" is without them. "mapped" are pages of files, which the system takes
back as it likes. The corpus is made here: reading one keeps its ids, some 100 bytes each.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from dipair_index.records import Passage

WIDTH, DIM = 384, 256
WORDS = [first + last for first in "bcdfghklmnprstvwz" for last in ("a", "e", "i", "o", "u")]
WARM = 2048
MIB = 2**20


def some_passages(count: int, prefix: str = "") -> Iterator[Passage]:
    """Yields passages of twelve words each, with ids like those of MS MARCO."""
    chance = random.Random(0)
    for number in range(count):
        yield Passage(f"{prefix}{8_000_000 - number}", " ".join(chance.choices(WORDS, k=12)))


def make_model(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from dipair_index.models.dipair import DiPairModel

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {piece: row for row, piece in enumerate(special + WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, **{f"{name}_token": piece for name, piece in names}
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=6,
        intermediate_size=128,
        max_position_embeddings=160,
    )
    BertModel(config).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    model = DiPairModel.from_encoder(str(folder / "encoder"), dim=DIM)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


class Watch:
    """The most memory that this process holds in each phase; a thread looks every 5 ms."""

    def __init__(self) -> None:
        self.phase = "before"
        self.peaks: dict[str, dict[str, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            peaks = self.peaks.setdefault(self.phase, {})
            for kind, size in resident().items():
                peaks[kind] = max(peaks.get(kind, 0), size)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


def resident() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    kinds = {"all": "VmRSS", "own": "RssAnon", "mapped": "RssFile"}
    return {kind: 1024 * int(values[name].split()[0]) for kind, name in kinds.items()}


def measure(folder: Path, count: int, store: str) -> dict[str, object]:
    """Builds an index of `count` passages in this process."""
    from dipair_index.encoders.dual_encoder import DualEncoder
    from dipair_index.rerank.build import build_index

    encoder = DualEncoder.load(folder / "model")
    build_index(some_passages(WARM + 1), folder / "warm", encoder, store=store)
    gc.collect()
    before, watch = resident(), Watch()

    def report(done: int) -> None:
        watch.phase = "the end" if done == count else "encoding"

    try:
        summary = build_index(
            some_passages(count), folder / str(count), encoder, store=store, report=report
        )
    finally:
        watch.end()
    return {"before": before, "seconds": summary.seconds, **watch.peaks}


def row(count: int, found: dict[str, dict[str, int]], seconds: float) -> str:
    """A line of the table, in MiB."""
    before, encoding, end = found["before"], found["encoding"], found["the end"]
    faiss = 4 * WIDTH * count
    sizes = (
        max(encoding["all"], end["all"]),
        max(encoding["mapped"], end["mapped"]) - before["mapped"],
        encoding["own"] - before["own"],
        end["own"] - before["own"],
        faiss,
        end["own"] - before["own"] - faiss,
    )
    cells = [f"{count:,}", *(f"{size / MIB:,.0f}" for size in sizes), f"{seconds:,.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--passages", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--store", default="lmdb")
    parser.add_argument("--folder", type=Path, help="build here, in place of the system's own")
    parser.add_argument("--in", dest="inside", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        print(json.dumps(measure(asked.inside, asked.passages[0], asked.store)))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        make_model(Path(folder))
        print(
            "| passages | peak | mapped | own: encoding | own: ANN, end | FAISS | less FAISS | s |"
            "\n|" + "--:|" * 8
        )
        for count in asked.passages:
            command = [sys.executable, __file__, "--passages", str(count), "--store", asked.store]
            done = subprocess.run(
                [*command, "--in", folder], check=True, stdout=subprocess.PIPE, text=True
            )
            found = json.loads(done.stdout)
            print(row(count, found, found.pop("seconds")), flush=True)
            shutil.rmtree(Path(folder) / str(count))
            shutil.rmtree(Path(folder) / "warm")


if __name__ == "__main__":
    main()
