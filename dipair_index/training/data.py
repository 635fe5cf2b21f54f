"""The data that a student is trained and evaluated on, checked before the training starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dipair_index.data.dataset import Dataset, JudgedTuples
from dipair_index.data.labels import read_labels
from dipair_index.encoders.scorers import Scorer
from dipair_index.evaluation.measures import Values, area_under_curve
from dipair_index.models.heads import served_logits
from dipair_index.records import FloatArray
from dipair_index.training.groups import LabelledGroups
from dipair_index.training.provenance import labels_digest, texts_digest
from dipair_index.training.settings import GROUP_LOSSES, TrainingSettings

Quality = dict[str, dict[str, float | None]]
"""Measures by name, by split: {"valid": {"AUC": 0.93}}."""


@dataclass(frozen=True)
class TrainingData:
    """A dataset with a teacher's labels; `record` is the part of `training.json` about them."""

    sides: tuple[str, ...]
    texts: Mapping[str, Mapping[str, str]]
    groups: LabelledGroups
    held_out: Mapping[str, JudgedTuples]
    record: Mapping[str, Any]

    @classmethod
    def read(cls, dataset: Dataset, labels: Path, settings: TrainingSettings) -> TrainingData:
        """Reads the texts, the labels in the folder `labels`, and the valid and test splits.

        Raises `FormatError` if the labels are not of this dataset or are all equal, and
        `SettingsError` if `settings` do not fit the labels.
        """
        table = read_labels(labels)
        groups = LabelledGroups.from_table(table, dataset.sides)
        settings.check(groups.classes)
        if settings.loss in GROUP_LOSSES:
            groups.check_group(settings.loss)
        texts = {side: dataset.texts(side) for side in dataset.sides}
        groups.check_ids(texts, str(dataset.folder))
        groups.check_splits(dataset.held_out_queries, str(dataset.folder))
        record = {
            "dataset": dataset.fingerprint,
            "texts": texts_digest(texts),
            "labels": {
                **json.loads((labels / "labels.json").read_text(encoding="utf-8")),
                "digest": labels_digest(table),
                "pairs": table.num_rows,
                "queries": len(groups.ids["query"]),
                "passages": len(groups.ids["passage"]),
            },
        }
        return cls(dataset.sides, texts, groups, dataset.held_out(), record)


def measure(held_out: Mapping[str, JudgedTuples], score: Scorer) -> Quality:
    """Returns the quality on each split; `score` gives a model's scores of texts by side."""
    return {
        split: quality(judged.labels, score(judged.texts)) for split, judged in held_out.items()
    }


def quality(labels: Values, scores: FloatArray) -> dict[str, float | None]:
    """Returns the AUC if there are two labels, otherwise Pearson's correlation; None if undefined.

    `labels` are (tuples,) in [0, 1]. `scores` are (tuples,), or (tuples, classes): then the
    accuracy is returned as well, if the labels are classes that were scaled to [0, 1].
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
