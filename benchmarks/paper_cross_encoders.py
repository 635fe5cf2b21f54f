"""The rows of `paper.py` that are cross-encoders: the teacher, its input cut, and BERT-Tiny."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paper_data import QUERY_LENGTH, Data, Scores, tokenizer_of

from dipair_index.cli._console import progress
from dipair_index.encoders.cross_encoders import TRUNCATION, TransformersTeacher, open_teacher
from dipair_index.training.cross_encoder import fit, random_bert_tiny
from dipair_index.training.groups import LabelledGroups
from dipair_index.training.losses import binary
from dipair_index.training.run import TrainingRun
from dipair_index.training.trainer import Schedule

BATCH = 64
TINY_PAIRS = 20_000
"""What BERT-Tiny trains on: it reads text, a hundred times slower than a head its tokens."""


def bert_tiny(
    data: Data, given: argparse.Namespace, device: str, folder: Path
) -> tuple[Scores, dict[str, Any]]:
    """BERT-Tiny from random weights, since no trained one is at hand."""
    train = data.pairs["train"]
    tokenizer = tokenizer_of(given.encoder)
    tokenizer.model_max_length = QUERY_LENGTH + given.passage_length
    model = random_bert_tiny(tokenizer, layers=None, outputs=1)
    groups = LabelledGroups(
        {"query": [str(place) for place in train.query],
         "passage": [str(place) for place in range(len(data.texts["passage"]))]},
        {"passage": train.passage[:, None]}, train.values[:, None],
    )  # fmt: skip
    texts = {
        side: {str(place): text for place, text in enumerate(data.texts[side])}
        for side in ("query", "passage")
    }
    steps = min(TINY_PAIRS, len(train.values)) // BATCH
    schedule = Schedule(epochs=1, learning_rate=given.rate, batch_size=BATCH, max_steps=steps,
                        save_steps=10**9, seed=given.seed, device=device)  # fmt: skip
    run = TrainingRun(folder, progress=progress)
    fit(model, tokenizer, groups, texts, binary, run, schedule, group=1)
    shutil.rmtree(run.working, ignore_errors=True)
    student = TransformersTeacher(model.to("cpu"), tokenizer, name="bert-tiny", batch_size=32)
    return _scores(data, student.logits), {"train_pairs": steps * BATCH, "rate": given.rate}


def teacher(data: Data, name: Path, length: int | None) -> tuple[Scores, dict[str, Any]]:
    """The teacher as it is, or on the test split with its input cut (figure 4)."""
    opened: Any = open_teacher(str(name))
    if length:  # there is no other way to an ONNX teacher's length
        opened._tokenizer.enable_truncation(length, strategy=TRUNCATION)
    splits = ("test",) if length else ("valid", "test")
    return _scores(data, opened.logits, splits), {"train_pairs": None}


def _scores(
    data: Data, logits: Callable[..., Any], splits: tuple[str, ...] = ("valid", "test")
) -> Scores:
    return {
        split: logits(*([data.texts[side][place] for place in places] for side, places in
                        zip(("query", "passage"), data.pairs[split][:2], strict=True)))
        for split in splits
    }  # fmt: skip
