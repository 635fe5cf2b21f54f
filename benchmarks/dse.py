"""DSE's two uses, timed beside a BERT-base cross-encoder: one query online, and all pairs of a set.

    python benchmarks/dse.py --threads 2

DSE (Barkan et al., AAAI 2020) embeds each sentence alone, and a small network scores the pair. The
weights are random, which takes the same time as trained ones; both encoders are BERT-base.

- online: a query is encoded and scored against 100,000 candidates, read from an LMDB token store
- all pairs: 1,000 sentences are encoded, and all 1,000,000 pairs scored

BERT-base reads each pair: its time is measured on --pairs of them in batches of 8, and multiplied.
The two are timed in turn in every round, and a speed-up is the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from dipair_index.models.config import DiPairConfig
from dipair_index.models.dipair import DiPairModel
from dipair_index.records import FloatArray
from dipair_index.rerank.head import HeadScorer
from dipair_index.stores.backends import open_token_store
from dipair_index.stores.codecs import open_codec
from dipair_index.threads import limit_openmp

CANDIDATES, SENTENCES, BATCH = 100_000, 1_000, 8
POSTER = {"online": 13_500, "all pairs": 900}
"""The poster's speed-ups, on a GPU."""


class Task(NamedTuple):
    name: str
    pairs: int
    by_dse: Callable[[], FloatArray]


class Sentences:
    """Encodes random sentences of `length` tokens by a DSE model of BERT-base's size."""

    def __init__(self, length: int, seed: int) -> None:
        torch.manual_seed(seed)
        encoder = BertConfig().to_diff_dict() | {"model_type": "bert"}
        self.model = DiPairModel(DiPairConfig(encoder, system="dse", dim=None)).eval()
        self.width = self.model.config.token_dim
        self._ids = torch.randint(1000, BertConfig().vocab_size, (SENTENCES, length))

    @torch.inference_mode()
    def encode(self, count: int) -> FloatArray:
        """Returns the embeddings of the first sentences, (count, 1, width)."""
        parts = [
            self.model.encode("query", ids, torch.ones_like(ids)).tokens
            for ids in self._ids[:count].split(BATCH)
        ]
        embeddings: FloatArray = torch.cat(parts).numpy()
        return embeddings


def tasks(sentences: Sentences, folder: Path, codec: str, threads: int) -> list[Task]:
    scorer = HeadScorer(sentences.model, threads=threads)
    ids = [f"s{number}" for number in range(CANDIDATES)]
    opened = open_codec(codec, tokens_per_passage=1, dim=sentences.width)
    store = open_token_store("lmdb", folder, tokens_per_passage=1, dim=sentences.width, codec=codec)
    rng = np.random.default_rng(0)
    for start in range(0, CANDIDATES, 10_000):
        some = rng.standard_normal((10_000, 1, sentences.width), np.float32)
        store.put(ids[start : start + 10_000], some)

    def online() -> FloatArray:
        (query,) = sentences.encode(1)
        return scorer.encoded_logits(query, store.get_encoded(ids), opened)

    def all_pairs() -> FloatArray:
        embeddings = sentences.encode(SENTENCES)
        return scorer.logits(embeddings, embeddings)

    return [
        Task("online", CANDIDATES, online),
        Task("all pairs", SENTENCES**2, all_pairs),
    ]


def cross_encoder(length: int, pairs: int) -> Callable[[], None]:
    """Returns a call that scores `pairs` pairs of two sentences by BERT-base."""
    model = BertForSequenceClassification(BertConfig(num_labels=1)).eval()
    ids = torch.randint(1000, BertConfig().vocab_size, (pairs, 2 * length))
    mask = torch.ones_like(ids)

    @torch.inference_mode()
    def run() -> None:
        for some, of_some in zip(ids.split(BATCH), mask.split(BATCH), strict=True):
            model(input_ids=some, attention_mask=of_some)

    return run


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def check(sentences: Sentences, threads: int) -> None:
    """Fails if the scorer that is timed does not score as the model's own head."""
    embeddings = sentences.encode(4)
    found = HeadScorer(sentences.model, threads=threads).logits(embeddings, embeddings)
    tokens = torch.from_numpy(embeddings)
    with torch.inference_mode():
        expected = [sentences.model.head(one.expand(4, -1, -1), tokens).numpy() for one in tokens]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--threads", type=int, default=torch.get_num_threads())
    add("--rounds", type=int, default=3)
    add("--length", type=int, default=32, help="tokens of a sentence; a pair has twice as many")
    add("--pairs", type=int, default=64, help="pairs that BERT-base is measured on")
    add("--codec", default="int8", help="codec of the stored candidates")
    add("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    limit_openmp(options.threads)
    sentences = Sentences(options.length, options.seed)
    check(sentences, options.threads)
    by_bert = cross_encoder(options.length, options.pairs)
    print("task\tpairs\tDSE, s\tBERT-base, s (extrapolated)\tspeed-up\tthe poster's, on a GPU")
    with TemporaryDirectory() as folder:
        for task in tasks(sentences, Path(folder) / "tokens", options.codec, options.threads):
            rounds = [
                (seconds(task.by_dse), seconds(by_bert) / options.pairs * task.pairs)
                for _ in range(options.rounds + 1)
            ][1:]  # the first warms up
            dse, bert = (statistics.median(each) for each in zip(*rounds, strict=True))
            speed_up = statistics.median(other / own for own, other in rounds)
            print(
                f"{task.name}\t{task.pairs:,}\t{dse:.2f}\t{bert:,.0f}\t{speed_up:,.0f}x\t"
                f"{POSTER[task.name]:,}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
