"""A cross-encoder teacher of one's own, fine-tuned on judged pairs (DiPair, section 4.3)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor
from torch.nn import functional
from transformers import set_seed

from dipair_index.data.directory import DatasetLayout, fingerprint_of, read_record, sides_of
from dipair_index.encoders.cross_encoders import (
    MAX_TOKENS,
    PASSAGE_TOKENS,
    TransformersTeacher,
    set_longest_input,
)
from dipair_index.errors import FormatError
from dipair_index.formats.tables import read_table
from dipair_index.models.sources import encoder_source
from dipair_index.progress import Progress
from dipair_index.training.cross_encoder import fit, pretrained_cross_encoder, saver
from dipair_index.training.data import measure, read_held_out, read_sides
from dipair_index.training.distil import load_tokenizer
from dipair_index.training.groups import LabelledGroups
from dipair_index.training.provenance import (
    labels_digest,
    library_versions,
    source_commit,
    texts_digest,
)
from dipair_index.training.run_folder import begin_run, check_out, finish_run
from dipair_index.training.trainer import Schedule


def train_teacher(
    dataset: Path,
    out: Path,
    *,
    encoder: str,
    schedule: Schedule,
    progress: Progress,
    layers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str | None = None,
) -> dict[str, Any]:
    """Fine-tunes `encoder` as a cross-encoder on the dataset's train tuples, saved into `out`.

    It minimises the cross-entropy of the sigmoid of its logit against the labels, which are in
    [0, 1]. Returns its settings and its quality on the valid and test tuples. Raises `FormatError`
    for other labels and where all are the same, `IndexDirectoryError` when `out` exists.
    """
    check_out(out, overwrite=overwrite)
    commit = source_commit()  # now: the source may be another at the end of the run
    source = read_record(dataset)
    texts = read_sides(dataset, sides_of(source))
    table = judged_table(DatasetLayout(dataset).pairs("train"), tuple(texts))
    groups = LabelledGroups.from_table(table, tuple(texts), each_alone=True)
    groups.check_ids(texts, str(dataset))
    held_out = read_held_out(dataset, texts)
    record: dict[str, Any] = {
        "encoder": encoder,
        "layers": layers,
        "sides": list(texts),
        "training": asdict(schedule),
        "dataset": fingerprint_of(source),
        "texts": texts_digest(texts),
        "labels": {"digest": labels_digest(table), "pairs": table.num_rows},
        "versions": library_versions(),
    }
    set_seed(schedule.seed)
    model = pretrained_cross_encoder(encoder, layers=layers, outputs=1)
    tokenizer = load_tokenizer(encoder_source(encoder), model, encoder)
    length = MAX_TOKENS + PASSAGE_TOKENS * (len(texts) - 2)
    record["max_tokens"] = set_longest_input(
        model, tokenizer, min(length, int(tokenizer.model_max_length))
    )
    working = begin_run(out, record, resume=resume, overwrite=overwrite)
    fit(
        model,
        tokenizer,
        groups,
        texts,
        against_labels,
        working / "checkpoints",
        schedule,
        group=1,
        progress=progress,
        resume=resume,
    )
    teacher = TransformersTeacher(model, tokenizer, name=str(out))
    record["quality"] = measure(held_out, lambda texts: teacher.logits(*texts.values()))
    record["commit"] = commit
    record["command"] = command
    finish_run(out, working, record, saver(model, tokenizer))
    return record


def judged_table(file: Path, sides: tuple[str, ...]) -> pa.Table:
    """Returns the ids and labels of judged tuples, the labels as `logit`.

    Raises `FormatError` for labels outside [0, 1], and where all are the same.
    """
    columns = [f"{side}_id" for side in sides]
    table = read_table(file, columns=[*columns, "label"])
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
    return table.select(columns).append_column("logit", pa.array(labels))


def against_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of sigmoids (section 4.3)."""
    return functional.binary_cross_entropy_with_logits(logits, labels)
