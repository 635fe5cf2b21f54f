"""How near `match` comes to the head's own speed, what it holds in memory, and what Ray adds.

    python benchmarks/offline.py rates            # head on rows in memory, --pairs, --all
    python benchmarks/offline.py memory           # 10^5 to 10^8 pairs of --all
    python benchmarks/offline.py ray              # the plain engine, one worker, two workers

Indexes hold random tokens in int8 and are of the default model, or, for memory, of a de-cos model
with random weights, whose head is fast enough for many pairs. `rates` is in seconds of the
processor with one thread, since that holds on a machine that does other work too; `ray` is by the
wall clock, on a quiet machine only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dipair_index.threads import limit_threads

TEXTS = 20_000


def make_index(root: Path, side: str, texts: int, model: str) -> None:
    """An index of random tokens, with vectors that nobody searches."""
    from dipair_index.encoders.open import open_encoder
    from dipair_index.records import Passage
    from dipair_index.stores.ann import VectorSource
    from dipair_index.stores.backends import open_token_store
    from dipair_index.stores.index_writer import IndexWriter, build_ann
    from dipair_index.stores.manifest import Manifest
    from dipair_index.stores.passages import PassageStore

    encoder = open_encoder(model)
    sizes = encoder.sizes
    manifest = Manifest(
        package_version="benchmark", model=model, model_fingerprint=encoder.fingerprint,
        max_query_tokens=sizes.max_query_tokens, max_passage_tokens=sizes.max_passage_tokens,
        dim=sizes.dim, vector_dim=1, store="lmdb", codec="int8", embedder="model",
        embedder_fingerprint=encoder.fingerprint, ann_kind="flat", seed=0, side=side,
    )  # fmt: skip
    random = np.random.default_rng(len(side))
    root.mkdir()
    ids = [f"{side}-{row}" for row in range(texts)]
    with IndexWriter(root, new=True) as writer:
        part = writer.layout.building
        part.create("")
        with (
            open_token_store(
                "lmdb", part.tokens, tokens_per_passage=manifest.kept_tokens, dim=sizes.dim,
                codec="int8",
            ) as tokens,
            PassageStore.open(part.passages) as passages,
        ):  # fmt: skip
            for start in range(0, texts, 1000):
                some = ids[start : start + 1000]
                shape = (len(some), manifest.kept_tokens, sizes.dim)
                tokens.put(some, random.standard_normal(shape, np.float32))
                passages.put([Passage(each, each) for each in some])
        vectors = np.ones((texts, 1), np.float32)
        build_ann(ids, vectors, manifest, VectorSource()).save(part.ann)
        info = writer.install_part(part, texts, 0, "", manifest)
        writer.replace_manifest(replace(manifest, parts=(info,)))


def some_pairs(file: Path, count: int, left: int, right: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    ids = {
        "left": [f"query-{row}" for row in random.integers(0, left, count)],
        "right": [f"passage-{row}" for row in random.integers(0, right, count)],
    }
    pq.write_table(pa.table(ids), file)


def rates(folder: Path, pairs: int, texts: int, rounds: int) -> dict[str, Any]:
    """Pairs a second of the processor: of the head alone, with `--pairs`, and with `--all`."""
    limit_threads(1)
    import torch

    from dipair_index.rerank.offline.folder import OutputFolder
    from dipair_index.rerank.offline.matcher import Matcher, StoredTexts
    from dipair_index.rerank.offline.run import work_of, write_block
    from dipair_index.rerank.offline.settings import MatchSettings

    torch.set_num_threads(1)
    for side in ("query", "passage"):
        make_index(folder / side, side, texts, "default")
    some_pairs(folder / "pairs.parquet", pairs, texts, texts)
    both = {"left": folder / "query", "right": folder / "passage", "block_pairs": pairs}
    (folder / "out").mkdir()
    out = OutputFolder(folder / "out")
    found: dict[str, list[float]] = {"head": [], "pairs": [], "all": []}
    with (
        Matcher(MatchSettings(**both, pairs=str(folder / "pairs.parquet"))) as of_pairs,
        Matcher(MatchSettings(**both, every=True)) as of_all,
    ):
        rows = [
            StoredTexts.of(snapshot, snapshot.ids_between(0, texts))
            for snapshot in (of_pairs.left, of_pairs.right)
        ]
        at = np.random.default_rng(0).integers(0, texts, (2, pairs))
        works = {"pairs": work_of(of_pairs), "all": work_of(of_all)}
        for warm in range(rounds + 1):
            for name, times in found.items():
                (folder / "out" / "scores-00000000.parquet").unlink(missing_ok=True)
                started, count = time.process_time(), pairs
                if name == "head":
                    of_pairs.pair_logits(rows[0], at[0], rows[1], at[1])
                else:
                    write_block(works[name], out, 0, lambda count: None)
                    count = works[name].pairs_in(0)
                if warm:
                    times.append(count / (time.process_time() - started))
    speeds = {name: round(float(np.median(times))) for name, times in found.items()}
    return {
        **speeds,
        "pairs over head": round(speeds["pairs"] / speeds["head"], 3),
        "all over pairs": round(speeds["all"] / speeds["pairs"], 3),
    }


def make_model(folder: Path) -> str:
    """A de-cos model of random weights with the tokenizer of the default one."""
    from dipair_index.models.config import DiPairConfig
    from dipair_index.models.dipair import DiPairModel
    from dipair_index.models.packaged import default_model_folder

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = {"model_type": "bert", "intermediate_size": 32, "vocab_size": 30522, **sizes}
    DiPairModel(DiPairConfig(encoder, system="de-cos", dim=16)).save_pretrained(folder)
    for file in default_model_folder().glob("tokenizer*"):
        shutil.copy(file, folder)
    return str(folder)


def peak_of(folder: Path) -> dict[str, Any]:
    """Matches all pairs in this process; returns its peak of anonymous memory and its speed."""
    limit_threads(1)
    from dipair_index.rerank.bench import forget_peak_memory, peak_memory
    from dipair_index.rerank.offline.match import match_indexes

    peaks: list[int] = []

    def note(done: int, pairs: int) -> None:
        if done == 0:
            forget_peak_memory()  # what loading the model takes
        peaks.append(peak_memory() or 0)

    started = time.process_time()
    summary = match_indexes(
        folder / "query", folder / "passage", folder / "out", every=True, min_score=0.999,
        report=note,
    )  # fmt: skip
    seconds = time.process_time() - started
    return {
        "pairs": summary.pairs,
        "peak, MiB": round(max(peaks) / 2**20),
        "seconds": round(seconds, 1),
    }


def memory(folder: Path, most: int) -> list[dict[str, Any]]:
    """Each number of pairs in a process of its own."""
    model = make_model(folder / "model")
    found = []
    for power in range(5, most + 1):
        at = folder / str(power)
        at.mkdir()
        make_index(at / "query", "query", 100, model)
        make_index(at / "passage", "passage", 10**power // 100, model)
        command = [sys.executable, __file__, "peak", "--folder", str(at)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found.append(json.loads(answer))
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
        shutil.rmtree(at)
    return found


def with_ray(folder: Path, pairs: int, texts: int) -> dict[str, Any]:
    """Seconds by the wall clock: the plain engine with one thread, and Ray with one and two."""
    limit_threads(1)
    import ray

    from dipair_index.rerank.offline.match import match_indexes

    for side in ("query", "passage"):
        make_index(folder / side, side, texts, "default")
    some_pairs(folder / "pairs.parquet", pairs, texts, texts)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    seconds = {}
    for name, chosen in (
        ("plain", {}), ("ray 1", {"engine": "ray", "workers": 1}),
        ("ray 2", {"engine": "ray", "workers": 2}),
    ):  # fmt: skip
        started = time.monotonic()
        match_indexes(
            folder / "query", folder / "passage", folder / name,
            pairs=folder / "pairs.parquet", block_pairs=pairs // 16, **chosen,
        )  # fmt: skip
        seconds[name] = round(time.monotonic() - started, 1)
    return {
        **seconds,
        "plain over ray 1": round(seconds["plain"] / seconds["ray 1"], 2),
        "ray 1 over ray 2": round(seconds["ray 1"] / seconds["ray 2"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["rates", "memory", "ray", "peak"])
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=8, help="memory up to 10 to this power")
    parser.add_argument("--folder", type=Path, help="of `peak`")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if given.what == "rates":
            found: Any = rates(folder, given.pairs, given.texts, given.rounds)
        elif given.what == "memory":
            found = memory(folder, given.most)
        elif given.what == "ray":
            found = with_ray(folder, given.pairs, given.texts)
        else:
            found = peak_of(given.folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
