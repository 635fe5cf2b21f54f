"""A cross-encoder teacher of one's own, fine-tuned on judged pairs (DiPair, section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from dipair_index.dataset_directory import DatasetLayout, read_record
from dipair_index.distillation import begin_run, finish_run
from dipair_index.errors import FormatError, ModelError
from dipair_index.labels import read_texts
from dipair_index.mining import area_under_curve
from dipair_index.neighbours import Progress
from dipair_index.sentence_vectors import encoder_source
from dipair_index.tables import read_table
from dipair_index.teacher import MAX_TOKENS, Teacher, TransformersTeacher
from dipair_index.trainer import Schedule, run_training


def train_teacher(
    dataset: Path,
    out: Path,
    *,
    encoder: str,
    schedule: Schedule,
    progress: Progress,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Fine-tunes `encoder` as a cross-encoder on the dataset's train pairs and saves it into `out`.

    Returns its settings and its AUC on the valid and test pairs. Raises `FormatError` when the
    train pairs are of one class only, `IndexDirectoryError` when `out` exists.
    """
    layout = DatasetLayout(dataset)
    source = read_record(dataset)
    texts = (read_texts(layout.queries, "query_id"), read_texts(layout.passages, "passage_id"))
    pairs = _pairs(layout.pairs("train"), *texts)
    if len({label for _, _, label in pairs}) < 2:
        raise FormatError(
            f"{layout.pairs('train')} holds pairs of one label only: make a dataset with negatives"
        )
    record: dict[str, Any] = {
        "encoder": encoder,
        "training": asdict(schedule),
        "dataset": source["embedder"]["passages_digest"],
    }
    working = begin_run(out, record, resume=resume, overwrite=overwrite)
    set_seed(schedule.seed)
    name = encoder_source(encoder)
    try:
        model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=1)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ModelError(f"no encoder could be loaded from {encoder}: {error}") from error

    def collate(items: list[tuple[str, str, float]]) -> dict[str, Tensor]:
        queries, passages, labels = zip(*items, strict=True)
        batch = tokenizer(
            list(queries),
            list(passages),
            truncation="only_second",
            max_length=MAX_TOKENS,
            padding=True,
            return_tensors="pt",
        )
        return {**batch, "labels": torch.tensor(labels)}

    def compute_loss(output: Any, labels: Tensor, **_: Any) -> Tensor:
        return functional.binary_cross_entropy_with_logits(output.logits[:, 0], labels)

    with progress("training the teacher", "steps") as report:
        run_training(
            model,
            pairs,
            collate,
            compute_loss,
            working / "checkpoints",
            schedule,
            resume=resume,
            report=report,
        )

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    teacher = TransformersTeacher(model.eval(), tokenizer, name=str(out))
    record["auc"] = {
        split: _area(teacher, _pairs(layout.pairs(split), *texts)) for split in ("valid", "test")
    }
    finish_run(out, working, record, save)
    return record


def _area(teacher: Teacher, pairs: list[tuple[str, str, float]]) -> float | None:
    """Returns the teacher's AUC on pairs, None where they are of one class only."""
    positive = np.array([label > 0 for _, _, label in pairs], bool)
    scores = teacher.logits([query for query, _, _ in pairs], [text for _, text, _ in pairs])
    auc = area_under_curve(scores[positive], scores[~positive])
    return None if auc is None else round(auc, 4)


def _pairs(
    file: Path, queries: Mapping[str, str], passages: Mapping[str, str]
) -> list[tuple[str, str, float]]:
    table = read_table(file, columns=["query_id", "passage_id", "label"])
    return [
        (queries[row["query_id"]], passages[row["passage_id"]], row["label"])
        for row in table.to_pylist()
    ]
