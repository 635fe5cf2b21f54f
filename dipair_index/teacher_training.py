"""A cross-encoder teacher of one's own, fine-tuned on judged pairs (DiPair, section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    set_seed,
)

from dipair_index.dataset_directory import DatasetLayout, read_record
from dipair_index.distillation import begin_run, finish_run
from dipair_index.errors import FormatError, ModelError
from dipair_index.labels import read_texts
from dipair_index.mining import area_under_curve
from dipair_index.sentence_vectors import encoder_source
from dipair_index.tables import read_table
from dipair_index.teacher import MAX_TOKENS


@dataclass(frozen=True)
class TeacherSettings:
    """How the teacher is fine-tuned; the optimiser is the paper's (section 4.4)."""

    epochs: float = 1.0
    learning_rate: float = 5e-5
    batch_size: int = 32
    warm_up: float = 0.1
    max_steps: int = -1
    save_steps: int = 200
    seed: int = 0
    device: str = "cpu"


def train_teacher(
    dataset: Path,
    out: Path,
    *,
    encoder: str,
    settings: TeacherSettings,
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
        "training": asdict(settings),
        "dataset": source.get("passages_digest"),
    }
    working = begin_run(out, record, resume=resume, overwrite=overwrite)
    set_seed(settings.seed)
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

    def predict(split: str) -> float | None:
        held_out = _pairs(layout.pairs(split), *texts)
        if not held_out:
            return None
        output = trainer.predict(held_out)
        positive = np.array([label > 0 for _, _, label in held_out])
        scores = output.predictions[:, 0]
        auc = area_under_curve(scores[positive], scores[~positive])
        return None if auc is None else round(auc, 4)

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(working / "checkpoints"),
            num_train_epochs=settings.epochs,
            max_steps=settings.max_steps,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            weight_decay=0.01,
            adam_epsilon=1e-6,
            lr_scheduler_type="linear",
            warmup_steps=settings.warm_up,
            logging_steps=20,
            save_steps=settings.save_steps,
            save_total_limit=1,
            seed=settings.seed,
            data_seed=settings.seed,
            use_cpu=settings.device == "cpu",
            remove_unused_columns=False,
            label_names=["labels"],
            report_to=[],
        ),
        train_dataset=pairs,
        data_collator=collate,
        compute_loss_func=compute_loss,
    )
    checkpoints = list((working / "checkpoints").glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=bool(resume and checkpoints))
    record["auc"] = {split: predict(split) for split in ("valid", "test")}

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    finish_run(out, working, record, save)
    return record


def _pairs(
    file: Path, queries: Mapping[str, str], passages: Mapping[str, str]
) -> list[tuple[str, str, float]]:
    table = read_table(file, columns=["query_id", "passage_id", "label"])
    return [
        (queries[row["query_id"]], passages[row["passage_id"]], row["label"])
        for row in table.to_pylist()
    ]
