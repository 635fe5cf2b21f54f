"""From a labelled dataset to a saved DiPair model: what `dipair-index train` does."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, set_seed

from dipair_index.dataset_directory import DatasetLayout, move_into_place, read_record
from dipair_index.dual_encoder import DualEncoder
from dipair_index.errors import IndexDirectoryError, ModelError, SettingsError
from dipair_index.labels import read_labels, read_texts
from dipair_index.mining import area_under_curve
from dipair_index.model import DiPairModel, save_split
from dipair_index.neighbours import Progress
from dipair_index.records import FloatArray
from dipair_index.sentence_vectors import encoder_source
from dipair_index.tables import read_table
from dipair_index.training import LabelledGroups, TrainingSettings, train

PAIRS_PER_BATCH = 1024


def distil(
    dataset: Path,
    labels: Path,
    out: Path,
    *,
    encoder: str,
    layers: int | None,
    model_settings: Mapping[str, Any],
    settings: TrainingSettings,
    progress: Progress,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Trains on `labels` and saves the model, its tokenizer and `training.json` into `out`.

    Returns what `training.json` holds: settings, data, versions, and the AUC on the dataset's
    valid and test pairs. Checkpoints stay in `<out>.training` until the model is saved, and
    `resume` goes on from them. Raises `IndexDirectoryError` when `out` exists, `SettingsError`
    when a run with other settings was interrupted there.
    """
    layout = DatasetLayout(dataset)
    source = read_record(dataset)
    table = read_labels(labels)
    groups = LabelledGroups.from_table(table)
    queries = read_texts(layout.queries, "query_id")
    passages = read_texts(layout.passages, "passage_id")
    record = {
        "encoder": encoder,
        "layers": layers,
        "model": dict(model_settings),
        "training": asdict(settings),
        "dataset": source["embedder"]["passages_digest"],
        "labels": {
            **json.loads((labels / "labels.json").read_text(encoding="utf-8")),
            "pairs": table.num_rows,
            "queries": len(groups.query_ids),
            "passages": len(groups.passage_ids),
        },
        "versions": {name: version(name) for name in ("dipair-index", "torch", "transformers")}
        | {"python": platform.python_version()},
    }
    working = begin_run(out, record, resume=resume, overwrite=overwrite)
    set_seed(settings.seed)
    name = encoder_source(encoder)
    model = DiPairModel.from_encoder(name, layers=layers, **model_settings)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ModelError(f"{encoder} has no tokenizer: {error}") from error
    if len(tokenizer) > model.encoder.get_input_embeddings().num_embeddings:
        raise ModelError(
            f"the tokenizer of {encoder} has {len(tokenizer)} pieces, its encoder "
            f"{model.encoder.get_input_embeddings().num_embeddings} embeddings: they do not fit"
        )
    train(
        model,
        tokenizer,
        groups,
        queries,
        passages,
        working,
        settings,
        progress=progress,
        resume=resume,
    )

    def save(folder: Path) -> None:
        save_split(model, folder)
        tokenizer.save_pretrained(folder)

    student = DualEncoder(model, tokenizer, name=str(out), device=settings.device)
    record["auc"] = {
        split: evaluate_pairs(student, layout.pairs(split), queries, passages)
        for split in ("valid", "test")
    }
    finish_run(out, working, record, save)
    return record


def begin_run(out: Path, record: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Path:
    """Returns `<out>.training`, new or that of an interrupted run with the same `record`."""
    if out.exists() and not overwrite:
        raise IndexDirectoryError(f"{out} exists: pass --overwrite to replace it, or another --out")
    working = out.with_name(f"{out.name}.training")
    note = working / "settings.json"
    if note.is_file() and resume:
        there = json.loads(note.read_text(encoding="utf-8"))
        differing = [key for key in record if there.get(key) != json.loads(json.dumps(record[key]))]
        if differing:
            raise SettingsError(
                f"{working} was begun with other settings ({', '.join(differing)}): pass the same "
                "ones, or delete it to begin anew"
            )
        return working
    if note.is_file() and not overwrite:
        raise IndexDirectoryError(
            f"{working} holds an interrupted run: pass --resume to go on with it, or --overwrite "
            "to begin anew"
        )
    if working.exists():
        if not note.is_file():
            raise IndexDirectoryError(f"{working} is not a training run: move it away")
        shutil.rmtree(working)
    working.mkdir(parents=True)
    note.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return working


def finish_run(
    out: Path, working: Path, record: Mapping[str, Any], save: Callable[[Path], None]
) -> None:
    """Saves the model beside `out`, moves it into place and removes the checkpoints."""
    unfinished = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save(unfinished)
    text = json.dumps(record, indent=2) + "\n"
    (unfinished / "training.json").write_text(text, encoding="utf-8")
    move_into_place(unfinished, out)
    shutil.rmtree(working)


def evaluate_pairs(
    student: DualEncoder, pairs: Path, queries: Mapping[str, str], passages: Mapping[str, str]
) -> float | None:
    """Returns the AUC of the head's scores on a split, None where it has one class only."""
    table = read_table(pairs, columns=["query_id", "passage_id", "label"])
    positive = table["label"].to_numpy() > 0
    scores = score_pairs(
        student,
        [queries[name] for name in table["query_id"].to_pylist()],
        [passages[name] for name in table["passage_id"].to_pylist()],
    )
    auc = area_under_curve(scores[positive], scores[~positive])
    return None if auc is None else round(auc, 4)


def score_pairs(student: DualEncoder, queries: list[str], passages: list[str]) -> FloatArray:
    """Returns the head's logits of pairs of texts, encoding each different text once."""
    query_texts, query_rows = np.unique(np.array(queries, object), return_inverse=True)
    passage_texts, passage_rows = np.unique(np.array(passages, object), return_inverse=True)
    query_tokens = student.encode_queries(list(query_texts)).tokens
    passage_tokens = student.encode_passages(list(passage_texts)).tokens
    device = student.model.device
    scores = np.empty(len(queries), np.float32)
    with torch.inference_mode():
        for start in range(0, len(queries), PAIRS_PER_BATCH):
            rows = slice(start, start + PAIRS_PER_BATCH)
            logits = student.model.head(
                torch.from_numpy(query_tokens[query_rows[rows]]).to(device),
                torch.from_numpy(passage_tokens[passage_rows[rows]]).to(device),
            )
            scores[rows] = logits.float().cpu().numpy()
    return scores
