"""What a student is trained and measured on, read and checked before hours are spent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dipair_index.data.directory import DatasetLayout, fingerprint_of, read_record, sides_of
from dipair_index.data.labels import held_out_queries, read_labels, read_texts
from dipair_index.encoders.scorers import Scorer, texts_named
from dipair_index.errors import FormatError
from dipair_index.evaluation.measures import Values, area_under_curve
from dipair_index.formats.tables import read_table
from dipair_index.models.heads import served_logits
from dipair_index.records import FloatArray
from dipair_index.training.groups import LabelledGroups
from dipair_index.training.provenance import labels_digest, texts_digest
from dipair_index.training.settings import GROUP_LOSSES, TrainingSettings

Quality = dict[str, dict[str, float | None]]
"""Measures by name, by split: {"valid": {"AUC": 0.93}}."""


@dataclass(frozen=True)
class HeldOut:
    """The judged tuples of one split."""

    labels: Values  # (tuples,)
    texts: Mapping[str, list[str]]


@dataclass(frozen=True)
class TrainingData:
    """A dataset and a teacher's labels of it; `record` is what `training.json` says of them."""

    sides: tuple[str, ...]
    texts: Mapping[str, Mapping[str, str]]
    groups: LabelledGroups
    held_out: Mapping[str, HeldOut]
    record: Mapping[str, Any]

    @classmethod
    def read(cls, dataset: Path, labels: Path, settings: TrainingSettings) -> TrainingData:
        """Reads both, and the valid and test splits that there are.

        Raises `FormatError` where they do not fit together or teach nothing, and `SettingsError`
        where the settings do not fit them.
        """
        source = read_record(dataset)
        sides = sides_of(source)
        table = read_labels(labels)
        groups = LabelledGroups.from_table(table, sides)
        settings.check(groups.classes)
        if settings.loss in GROUP_LOSSES:
            groups.check_group(settings.loss)
        texts = read_sides(dataset, sides)
        groups.check_ids(texts, str(dataset))
        groups.check_splits(held_out_queries(dataset), str(dataset))
        record = {
            "dataset": fingerprint_of(source),
            "texts": texts_digest(texts),
            "labels": {
                **json.loads((labels / "labels.json").read_text(encoding="utf-8")),
                "digest": labels_digest(table),
                "pairs": table.num_rows,
                "queries": len(groups.ids["query"]),
                "passages": len(groups.ids["passage"]),
            },
        }
        return cls(sides, texts, groups, read_held_out(dataset, texts), record)


def read_sides(dataset: Path, sides: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Returns the texts of a dataset by side and id."""
    layout = DatasetLayout(dataset)
    return {side: read_texts(layout.texts(side), f"{side}_id") for side in sides}


def read_held_out(dataset: Path, texts: Mapping[str, Mapping[str, str]]) -> dict[str, HeldOut]:
    """Returns the valid and test tuples, of those splits that there are and that hold any."""
    found = {}
    for split in ("valid", "test"):
        file = DatasetLayout(dataset).pairs(split)
        if file.is_file() and (held_out := read_judged(file, texts)).labels.size:
            found[split] = held_out
    return found


def read_judged(file: Path, texts: Mapping[str, Mapping[str, str]]) -> HeldOut:
    """Returns the labels and the texts of a split's tuples.

    Raises `FormatError` for an id without a text, and a label that is not a finite number.
    """
    table = read_table(file, columns=[*(f"{side}_id" for side in texts), "label"])
    labels = table["label"].to_numpy()
    if not np.isfinite(labels.astype(np.float64)).all():
        raise FormatError(f"{file} holds a label that is not a finite number: make it anew")
    columns = {
        side: texts_named(table[f"{side}_id"].to_pylist(), of_side, side, file)
        for side, of_side in texts.items()
    }
    return HeldOut(labels, columns)


def measure(held_out: Mapping[str, HeldOut], score: Scorer) -> Quality:
    """Returns the quality of a model's scores on each split."""
    return {split: quality(of.labels, score(of.texts)) for split, of in held_out.items()}


def quality(labels: Values, scores: FloatArray) -> dict[str, float | None]:
    """Returns the AUC where there are two labels, else Pearson's correlation; None where undefined.

    `scores` are (tuples,), or (tuples, classes): then the share of labels that are the highest
    class too, where labels are classes, which a dataset scales to [0, 1].
    """
    found: dict[str, float | None] = {}
    if scores.ndim > 1:
        import torch

        classes = labels * (scores.shape[1] - 1)
        if np.allclose(classes, np.rint(classes), atol=1e-4):  # a third is not exact in float32
            found["Accuracy"] = float((scores.argmax(1) == np.rint(classes)).mean())
        scores = served_logits(torch.from_numpy(scores)).numpy()
    grades = np.unique(labels)
    if len(grades) < 3:
        found["AUC"] = area_under_curve(labels == grades[-1], scores) if len(grades) > 1 else None
    else:
        found["Pearson"] = float(np.corrcoef(labels, scores)[0, 1]) if np.ptp(scores) else None
    return {name: None if value is None else round(value, 4) for name, value in found.items()}
