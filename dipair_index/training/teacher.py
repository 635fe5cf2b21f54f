"""Fine-tunes a cross-encoder teacher on judged pairs (DiPair, section 4.3)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor
from torch.nn import functional
from transformers import set_seed

from dipair_index.data.dataset import Dataset
from dipair_index.encoders.cross_encoders import (
    MAX_TOKENS,
    PASSAGE_TOKENS,
    TransformersTeacher,
    set_longest_input,
)
from dipair_index.errors import FormatError
from dipair_index.models.pretrained import load_classifier
from dipair_index.models.tokenizers import load_tokenizer
from dipair_index.training.cross_encoder import fit, saver
from dipair_index.training.data import measure
from dipair_index.training.groups import LabelledGroups
from dipair_index.training.provenance import labels_digest, texts_digest
from dipair_index.training.run import TrainingRun
from dipair_index.training.trainer import Schedule


def train_teacher(
    dataset: Dataset,
    run: TrainingRun,
    *,
    encoder: str,
    schedule: Schedule,
    layers: int | None = None,
) -> dict[str, Any]:
    """Fine-tunes `encoder` as a cross-encoder on the dataset's train tuples, saved by `run`.

    The loss is the cross-entropy of sigmoid(logit) against the labels, which are in [0, 1];
    `layers` is the number of the encoder's layers to use, None is all. Returns the contents of
    `training.json`, with the quality on the valid and test tuples. Raises `FormatError` if a label
    is outside [0, 1] or if all are equal, and `SettingsError` or `DirectoryError` as
    `TrainingRun.begin` does.
    """
    table = judged_table(dataset)
    groups = LabelledGroups.from_table(table, dataset.sides, each_alone=True)
    texts = {side: dataset.texts(side) for side in dataset.sides}
    groups.check_ids(texts, str(dataset.folder))
    held_out = dataset.held_out()
    set_seed(schedule.seed)
    model = load_classifier(encoder, layers=layers, outputs=1)
    tokenizer = load_tokenizer(encoder, model)
    length = MAX_TOKENS + PASSAGE_TOKENS * (len(texts) - 2)
    longest = min(length, int(tokenizer.model_max_length))
    run.begin(
        {
            "encoder": encoder,
            "layers": layers,
            "sides": list(dataset.sides),
            "training": asdict(schedule),
            "dataset": dataset.fingerprint,
            "texts": texts_digest(texts),
            "labels": {"digest": labels_digest(table), "pairs": table.num_rows},
            "max_tokens": set_longest_input(model, tokenizer, longest),
        }
    )
    fit(model, tokenizer, groups, texts, against_labels, run, schedule, group=1)
    teacher = TransformersTeacher(model, tokenizer, name=str(run.out))
    quality = measure(held_out, lambda texts: teacher.logits(*texts.values()))
    return run.finish(quality, saver(model, tokenizer))


def judged_table(dataset: Dataset) -> pa.Table:
    """Returns the ids and labels of the train tuples, the labels as `logit`.

    Raises `FormatError` if a label is outside [0, 1], or if all are equal.
    """
    file = dataset.layout.pairs("train")
    table = dataset.pairs("train", [*dataset.id_columns, "label"])
    labels = table["label"].to_numpy().astype(np.float32)
    outside = np.flatnonzero(~((labels >= 0) & (labels <= 1)))
    if len(outside):
        raise FormatError(
            f"row {outside[0] + 1} of {file} has the label {labels[outside[0]]:g}, and a teacher "
            "learns labels from 0 to 1: make the dataset with labels that are scaled to that range"
        )
    if not len(labels) or labels.min() == labels.max():
        raise FormatError(
            f"{file} holds pairs of one label only: make a dataset with negatives"
            if len(labels)
            else f"{file} is empty: make a dataset with train pairs"
        )
    return table.select(dataset.id_columns).append_column("logit", pa.array(labels))


def against_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the cross-entropy of sigmoid(logits) against labels in [0, 1] (section 4.3)."""
    return functional.binary_cross_entropy_with_logits(logits, labels)
