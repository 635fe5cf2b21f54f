"""A dataset's judged pairs, and what any model by name scores them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers import PretrainedConfig

from dipair_index.dataset_directory import DatasetLayout, read_record
from dipair_index.distillation import score_pairs
from dipair_index.dual_encoder import DEFAULT_MODEL, DualEncoder
from dipair_index.errors import FormatError, ModelError
from dipair_index.evaluation import JudgedPairs
from dipair_index.labels import read_texts
from dipair_index.records import FloatArray
from dipair_index.tables import read_table
from dipair_index.teacher import open_teacher

MINER = "miner"
"""The system whose scores chose the negatives."""
PAIRS_AT_ONCE = 1024


class PairTexts(NamedTuple):
    """Both texts of some pairs, each (pairs,)."""

    queries: list[str]
    passages: list[str]


def read_judged_pairs(dataset: Path, split: str) -> tuple[JudgedPairs, PairTexts]:
    """Returns the pairs of "train", "valid" or "test" with their texts.

    Their only scores are those of the `MINER`, where the table has them. Raises
    `IndexDirectoryError` for what is no dataset, and `FormatError` for an empty split.
    """
    read_record(dataset)
    layout = DatasetLayout(dataset)
    table = read_table(layout.pairs(split))
    if not table.num_rows:
        raise FormatError(f"the {split} split of {dataset} is empty: name another --split")
    query_ids, passage_ids = table["query_id"].to_pylist(), table["passage_id"].to_pylist()
    queries = read_texts(layout.queries, "query_id")
    passages = read_texts(layout.passages, "passage_id")
    mined = "score" in table.column_names and not table["score"].null_count
    pairs = JudgedPairs(
        query_ids,
        passage_ids,
        table["label"].to_numpy(),
        {MINER: table["score"].to_numpy()} if mined else {},
    )
    texts = [queries[name] for name in query_ids], [passages[name] for name in passage_ids]
    return pairs, PairTexts(*texts)


def scores_of_model(
    model: str, texts: PairTexts, *, device: str = "cpu", report: Callable[[int], None]
) -> FloatArray:
    """Returns one logit a pair, (pairs,), of a DiPair model or a cross-encoder.

    `report` is told the pairs done so far. Raises `ModelError` where there is no such model, and
    where a score is not a number.
    """
    scores = np.empty(len(texts.queries), np.float32)
    if is_dipair(model):
        scores[:] = score_pairs(DualEncoder.load(model, device=device), *texts)
    else:
        teacher = open_teacher(model, device=device)
        for start in range(0, len(scores), PAIRS_AT_ONCE):
            rows = slice(start, start + PAIRS_AT_ONCE)
            scores[rows] = teacher.logits(texts.queries[rows], texts.passages[rows])
            report(min(rows.stop, len(scores)))
    if not np.isfinite(scores).all():
        raise ModelError(f"{model} gave a score that is not a number: it cannot be measured")
    return scores


def is_dipair(model: str) -> bool:
    """Whether a model is a DiPair one, or a cross-encoder; `ModelError` where there is none."""
    if model == DEFAULT_MODEL:
        return True
    if model.endswith(".onnx") or (Path(model) / "model.onnx").is_file():
        return False
    try:
        kind = PretrainedConfig.get_config_dict(model)[0].get("model_type")
    except (OSError, ValueError):
        kind = None
    if kind is None:
        raise ModelError(
            f"no model could be loaded from {model}: name a folder that `dipair-index train` or "
            "`train-teacher` has written, a hub model that can be reached, or an ONNX file"
        )
    return bool(kind == "dipair")
