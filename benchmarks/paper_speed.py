"""How fast each system scores pairs, against a BERT-base cross-encoder, on one thread.

Encoding is in no figure but the cross-encoders': a head's time is that from tokens in memory to
logits, which is what the paper's tables give. All systems are timed in turn in every round, by the
processor's seconds of this process, so that a busy machine slows all of them; a speed-up is the
median over the rounds of the ratio within a round.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import head
import numpy as np
import torch
from paper_rows import ROWS
from transformers import BertConfig

from dipair_index.models.config import DiPairConfig
from dipair_index.models.dipair import DiPairModel
from dipair_index.rerank.head import HeadScorer
from dipair_index.training.cross_encoder import random_bert_tiny

ROUNDS, PASSAGES, BATCH = 5, 1000, 4
ENCODER = {**head.ENCODER, "hidden_size": 384, "intermediate_size": 32}


def measure_speeds(file: Path, residual: str) -> None:
    """Writes each row's speed-up, {row: times}, into `file`; weights are random."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    contenders = dict(_contenders(residual))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS + 1):  # the first warms up
        for name, contender in contenders.items():
            seconds[name].append(head.timed(contender, time.process_time))
    torch.set_num_threads(threads)
    base = seconds["teacher"][1:]
    speeds = {
        name: statistics.median(one / other for one, other in zip(base, spent[1:], strict=True))
        for name, spent in seconds.items()
    }
    file.write_text(json.dumps(speeds, indent=2) + "\n")


def _contenders(residual: str) -> list[tuple[str, head.Contender]]:
    found = [("teacher", _bert(128))]
    for name, recipe in ROWS.items():
        if recipe.kind == "teacher" and recipe.length:
            found.append((name, _bert(recipe.length)))
        elif recipe.kind == "bert-tiny" and recipe.task == "match":
            found.append((name, _bert_tiny()))
        elif recipe.kind == "stage-one" and recipe.layers is None:
            n, m, dim = recipe.sizes
            sizes = {"max_query_tokens": n, "max_passage_tokens": m, "dim": dim}
            settings = sizes | {"similarity_residual": residual} | recipe.settings
            found.append((name, _head(DiPairConfig(ENCODER, **settings))))
    return found


def _bert(length: int) -> head.Contender:
    """BERT-base, the paper's teacher, on pairs of so many tokens."""
    usual, head.LENGTH = head.LENGTH, length
    contender = head.bert(BATCH)
    head.LENGTH = usual
    return contender


def _bert_tiny() -> head.Contender:
    # of a tokenizer only the size is read
    vocabulary = _Vocabulary(BertConfig().vocab_size)
    model = random_bert_tiny(vocabulary, layers=None, outputs=1).eval()
    ids = torch.randint(1000, len(vocabulary), (16, 128))
    mask = torch.ones_like(ids)

    @torch.inference_mode()
    def run() -> object:
        return model(ids, attention_mask=mask).logits

    return head.Contender("bert-tiny", len(ids), run, 0)


class _Vocabulary:
    pad_token_id = 0

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


def _head(config: DiPairConfig) -> head.Contender:
    scorer = HeadScorer(DiPairModel(config).eval(), threads=1)
    rng = np.random.default_rng(0)
    n, m, dim = config.max_query_tokens, config.max_passage_tokens, config.token_dim
    query = rng.standard_normal((n, dim), np.float32)
    passages = rng.standard_normal((PASSAGES, m, dim), np.float32)
    return head.Contender(config.system, PASSAGES, lambda: scorer.logits(query, passages), 0)
