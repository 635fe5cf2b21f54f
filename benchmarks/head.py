"""How much faster than a BERT-base cross-encoder the head scores pairs, and how near its bound.

    python benchmarks/head.py --threads 2 --rounds 9

Every round times every contender once, one after the other, so that what else the machine does
falls on all of them; a speed-up is the median over the rounds of the ratio within a round. The time
of the fast head is that of the whole call from int8 rows in memory to logits: decoding, norms,
projections and attention included; encoding the texts and reading the store are not in it.

- bert-base: transformers' BertModel with random weights, pairs of 128 tokens, the best batch size
- reference: the model's own head, from float32 tokens, in the same micro-batches
- fast: one query against 1,000 passages, `HeadScorer.encoded_logits`
- fast, many queries: 16 queries against 1,000 passages, a passage's own work done once
- fast, bfloat16: as fast, with the products in half precision
- prettr: PreTTR's two joint layers of MiniLM's size over a query of 8 tokens and passages of 120,
  from int8 rows of 128 tokens as it stores them

The bound is the time that the products of the weights need alone, at the shapes and in the order of
a micro-batch, times all the operations that remain over those of these products. "from cache" is
the same with every product repeated until its operands are in the cache.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from transformers import BertConfig, BertModel

from dipair_index.models.config import DiPairConfig
from dipair_index.models.dipair import DiPairModel
from dipair_index.records import FloatArray
from dipair_index.rerank.fast_head import Product, ProductForm, has_onednn
from dipair_index.rerank.head import HeadScorer, compute_alone
from dipair_index.rerank.scorer import MICRO_BATCH
from dipair_index.stores.codecs import Codec, EncodedRows, open_codec
from dipair_index.threads import limit_openmp

SIZES = [(4, 8, 256), (4, 12, 128), (8, 16, 256)]
PASSAGES, QUERIES, LENGTH, FEED_FORWARD = 1000, 16, 128, 1024
LONG_PASSAGES, QUERY_TOKENS = 100, 8
ENCODER = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 8}
ENCODER |= {"num_attention_heads": 1, "intermediate_size": 32}


class Contender(NamedTuple):
    name: str
    pairs: int
    run: Callable[[], object]
    flops: float  # of a pair


class Inputs(NamedTuple):
    model: DiPairModel
    queries: FloatArray  # (QUERIES, N, dim)
    rows: EncodedRows
    codec: Codec


def make_inputs(n: int, m: int, dim: int, passages: int = PASSAGES) -> Inputs:
    torch.manual_seed(0)
    sizes = {"max_query_tokens": n, "max_passage_tokens": m, "dim": dim}
    model = DiPairModel(DiPairConfig(encoder=ENCODER, **sizes)).eval()
    rng = np.random.default_rng(0)
    codec = open_codec("int8", tokens_per_passage=m, dim=dim)
    # a block many times over is as good as all different: nothing is kept between micro-batches
    block = codec.encode(rng.standard_normal((min(passages, PASSAGES), m, dim), np.float32))
    queries = rng.standard_normal((QUERIES, n, dim), np.float32)
    return Inputs(model, queries, np.resize(block, (passages, block.shape[1])), codec)


def weight_products(n: int, m: int, dim: int, prepared: bool) -> list[tuple[int, int, int]]:
    """The sizes (rows, in, out) of a micro-batch's products with weights, in two layers."""
    pairs, tokens = MICRO_BATCH, MICRO_BATCH * (n + m)
    first = [] if prepared else [(MICRO_BATCH * m, dim, 2 * dim)]
    layer = [(tokens, dim, FEED_FORWARD), (tokens, FEED_FORWARD, dim)]
    last = [(pairs, dim, dim)] * 2 + [(pairs, dim, FEED_FORWARD), (pairs, FEED_FORWARD, dim)]
    return first + layer + last


def fast_flops(n: int, m: int, dim: int, prepared: bool = False) -> float:
    """The floating-point operations of a pair, those of attention included."""
    products = sum(2 * r * i * o for r, i, o in weight_products(n, m, dim, prepared)) / MICRO_BATCH
    return products + 4 * (n + m) ** 2 * dim + 4 * (n + m) * dim


def reference_flops(n: int, m: int, dim: int) -> float:
    tokens = n + m
    return 2 * (tokens * (8 * dim**2 + 4 * dim * FEED_FORWARD) + 4 * tokens**2 * dim)


def bert(batch: int) -> Contender:
    config = BertConfig()
    model = BertModel(config).eval()
    ids = torch.randint(1000, config.vocab_size, (batch, LENGTH))
    mask = torch.ones_like(ids)
    layer = 8 * config.hidden_size**2 + 4 * config.hidden_size * config.intermediate_size
    attention = 4 * LENGTH * config.hidden_size
    flops = config.num_hidden_layers * LENGTH * (layer + attention)

    @torch.inference_mode()
    def run() -> object:
        return model(ids, attention_mask=mask).pooler_output

    return Contender(f"bert-base, {batch} at once", batch, run, flops)


def heads(sizes: tuple[int, int, int], threads: int) -> list[Contender]:
    model, queries, rows, codec = make_inputs(*sizes)
    label = "/".join(map(str, sizes))
    tokens = torch.from_numpy(codec.decode(rows))
    query = torch.from_numpy(queries[:1])
    fast = HeadScorer(model, threads=threads)
    half = HeadScorer(model, threads=threads, precision="bfloat16")

    @torch.inference_mode()
    def reference() -> None:
        for part in tokens.split(MICRO_BATCH):
            model.head(query.expand(len(part), -1, -1), part)

    def whole(scorer: HeadScorer, queries: FloatArray) -> Callable[[], object]:
        return lambda: scorer.encoded_logits(queries, rows, codec)

    remaining, many = fast_flops(*sizes), fast_flops(*sizes, prepared=True)
    return [
        Contender(f"reference {label}", PASSAGES, reference, reference_flops(*sizes)),
        Contender(f"fast {label}", PASSAGES, whole(fast, queries[0]), remaining),
        Contender(f"fast, many queries {label}", PASSAGES * QUERIES, whole(fast, queries), many),
        Contender(f"fast, bfloat16 {label}", PASSAGES, whole(half, queries[0]), remaining),
    ]


def prettr(threads: int, dim: int = 128) -> Contender:
    """Two joint layers of MiniLM's width, over as many tokens as BERT-base reads."""
    encoder = ENCODER | {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
    torch.manual_seed(0)
    model = DiPairModel(DiPairConfig(encoder, system="prettr", dim=dim)).eval()
    n, m = model.config.max_query_tokens, model.config.max_passage_tokens
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((LONG_PASSAGES, m, dim), np.float32)
    tokens[:, LENGTH - QUERY_TOKENS :] = 0  # a passage of 120 tokens in a row for 128
    codec = open_codec("int8", tokens_per_passage=m, dim=dim)
    query = rng.standard_normal((n, dim), np.float32)
    query[QUERY_TOKENS:] = 0
    rows, scorer = codec.encode(tokens), HeadScorer(model, threads=threads)
    width, wide, present = 384, 1536, LENGTH
    whole = present * (8 * width**2 + 4 * width * wide + 4 * present * width)
    last = 24 * width**2 * 2 + 4 * width * wide + 4 * present * width * 12
    expanded = 2 * (present - QUERY_TOKENS) * dim * width
    return Contender(
        f"prettr {n}/{m}/{dim}", LONG_PASSAGES,
        lambda: scorer.encoded_logits(query, rows, codec), float(whole + last + expanded),
    )  # fmt: skip


def bound(sizes: tuple[int, int, int], threads: int, prepared: bool, repeat: int) -> Contender:
    """The products with weights alone, for as many pairs and threads: a lower bound."""
    shapes = weight_products(*sizes, prepared)
    form = ProductForm(torch.float32, fused=has_onednn(torch.float32))
    steps = [
        (torch.randn(rows, into), Product(torch.randn(out, into), torch.randn(out), form))
        for rows, into, out in shapes
    ]
    batches = -(-PASSAGES // MICRO_BATCH)

    @torch.inference_mode()
    def work(_: int) -> None:
        for rows, product in steps:
            for _ in range(repeat):
                product(rows)

    def run() -> None:
        with ThreadPoolExecutor(threads, initializer=compute_alone) as pool:
            list(pool.map(work, range(batches)))

    flops = sum(2 * rows * into * out for rows, into, out in shapes) / MICRO_BATCH
    kind = "from cache" if repeat > 1 else "many queries" if prepared else "in order"
    label = "/".join(map(str, sizes))
    return Contender(f"products {kind} {label}", batches * MICRO_BATCH * repeat, run, flops)


def timed(contender: Contender, clock: Callable[[], float]) -> float:
    """Runs the contender, and returns its seconds a pair."""
    start = clock()
    contender.run()
    return (clock() - start) / contender.pairs


def compare(threads: int, rounds: int, clock: Callable[[], float], only: str) -> None:
    teachers = [bert(batch) for batch in (4, 8, 16)]
    for teacher in teachers:
        teacher.run()
    teacher = min(teachers, key=lambda one: statistics.median(timed(one, clock) for _ in range(3)))
    contenders = [teacher]
    for sizes in SIZES:
        contenders += heads(sizes, threads)
        contenders += [bound(sizes, threads, prepared, 1) for prepared in (False, True)]
        contenders += [bound(sizes, threads, False, 8)]
    contenders.append(prettr(threads))
    contenders = [each for each in contenders if each is teacher or only in each.name]
    for contender in contenders:
        contender.run()
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            seconds[contender.name].append(timed(contender, clock))

    def ratio(one: str, other: str) -> float:
        pairs = zip(seconds[one], seconds[other], strict=True)
        return statistics.median(first / second for first, second in pairs)

    print(
        "contender\tµs a pair\tpairs/s\tspeed-up\tMFLOP a pair\tGFLOP/s\tof the bound\tfrom cache"
    )
    for name, _, _, flops in contenders:
        spent = statistics.median(seconds[name])
        row = [
            name,
            f"{spent * 1e6:.1f}",
            f"{1 / spent:,.0f}",
            f"{ratio(teacher.name, name):,.0f}x",
        ]
        row += [f"{flops / 1e6:,.1f}", f"{flops / spent / 1e9:.0f}"]
        label = name.split()[-1]
        for kind in ("many queries" if "many" in name else "in order", "from cache"):
            alone = next((c for c in contenders if c.name == f"products {kind} {label}"), None)
            if alone and name.startswith("fast") and "bfloat16" not in name:
                row.append(f"{flops / alone.flops * ratio(alone.name, name):.0%}")
        print("\t".join(row), flush=True)


def grow(threads: int, clock: Callable[[], float]) -> None:
    print("pairs\tµs a pair\tpeak memory beyond the rows, MiB")
    model, queries, rows, codec = make_inputs(*SIZES[0], passages=100_000)
    scorer = HeadScorer(model, threads=threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for pairs in (100, 1000, 10_000, 100_000):
        part = partial(scorer.encoded_logits, queries[0], rows[:pairs], codec)
        call = Contender("", pairs, part, 0)
        spent = statistics.median(timed(call, clock) for _ in range(max(3, 10_000 // pairs)))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(f"{pairs:,}\t{spent * 1e6:.1f}\t{peak / 1024:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: this process's own seconds, for a machine that others use (with --threads 1)",
    )
    parser.add_argument("--only", default="", help="compare only heads with this in their name")
    arguments = parser.parse_args()
    limit_openmp(arguments.threads)
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    # first, since a process's peak of memory never sinks
    if not arguments.only:
        grow(arguments.threads, clock)
    compare(arguments.threads, arguments.rounds, clock, arguments.only)


if __name__ == "__main__":
    main()
