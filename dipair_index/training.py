"""Distillation in two stages (DiPair, section 3.7): new parameters first, then everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor, nn
from transformers import set_seed

from dipair_index.errors import FormatError, SettingsError
from dipair_index.losses import distillation_loss, vector_loss
from dipair_index.model import DiPairModel
from dipair_index.neighbours import Progress
from dipair_index.records import FloatArray
from dipair_index.state_cache import StateCache
from dipair_index.trainer import Schedule, run_training

Collate: TypeAlias = Callable[[list[dict[str, Any]]], dict[str, Any]]
"""Makes a batch of items of `GroupDataset`."""


@dataclass(frozen=True)
class TrainingSettings:
    """How both stages train: a step is `batch_queries` queries with `group` passages each."""

    loss: str = "both"
    temperature: float = 1.0
    vector_weight: float = 0.5
    group: int = 8
    batch_queries: int = 16
    stage_one_epochs: float = 20.0
    stage_one_learning_rate: float = 5e-4
    stage_two_epochs: float = 1.0
    stage_two_learning_rate: float = 5e-5
    max_steps: int = -1
    save_steps: int = 200
    train_embeddings: bool = False
    seed: int = 0
    device: str = "cpu"
    half: bool = False


@dataclass(frozen=True)
class LabelledGroups:
    """Each query's labelled passages: `rows[i]` are places in `passage_ids`, `logits[i]` theirs."""

    query_ids: Sequence[str]
    passage_ids: Sequence[str]
    rows: Sequence[np.ndarray[Any, np.dtype[np.int64]]]
    logits: Sequence[FloatArray]

    @classmethod
    def from_table(cls, labels: pa.Table) -> LabelledGroups:
        """Groups `query_id, passage_id, logit`; `FormatError` where none can be learnt from."""
        values = labels["logit"].to_numpy().astype(np.float32)
        if not len(values) or not np.isfinite(values).all():
            raise FormatError("the labels are empty or hold a logit that is not a finite number")
        if values.min() == values.max():
            raise FormatError(f"all labels are {values[0]:g}: there is nothing to learn from them")
        query_names, queries = np.unique(labels["query_id"].to_numpy(), return_inverse=True)
        passage_names, passages = np.unique(labels["passage_id"].to_numpy(), return_inverse=True)
        order = np.argsort(queries, kind="stable")
        cuts = np.flatnonzero(np.diff(queries[order])) + 1
        return cls(
            [str(name) for name in query_names],
            [str(name) for name in passage_names],
            np.split(passages[order], cuts),
            np.split(values[order], cuts),
        )


class GroupDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """One item a query: `group` of its labelled passages, drawn anew in every epoch."""

    def __init__(self, groups: LabelledGroups, group: int, seed: int) -> None:
        self._groups = groups
        self._group = group
        self._seed = seed
        self._epoch = 0

    def begin_epoch(self, epoch: int) -> None:
        """Draws as this epoch does, from 0, from now on."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._groups.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        # seeded by epoch and query, so that a resumed run draws what an undisturbed one would
        random = np.random.default_rng((self._seed, self._epoch, index))
        rows, logits = self._groups.rows[index], self._groups.logits[index]
        chosen = random.permutation(len(rows))[: self._group]
        missing = self._group - len(chosen)
        return {
            "query": index,
            # a query with too few labels is filled with one that has no say
            "passages": np.concatenate([rows[chosen], np.repeat(rows[:1], missing)]),
            "labels": np.concatenate([logits[chosen], np.full(missing, np.nan, np.float32)]),
        }


def train(
    model: DiPairModel,
    tokenizer: Any,
    groups: LabelledGroups,
    queries: dict[str, str],
    passages: dict[str, str],
    folder: Path,
    settings: TrainingSettings,
    *,
    progress: Progress,
    resume: bool = False,
) -> None:
    """Trains `model` in place; checkpoints and cached encoder outputs stay in `folder`.

    With `resume`, each stage goes on from its last checkpoint. Raises `SettingsError` for settings
    that cannot work, `DiPairError` when the loss diverges.
    """
    if settings.group < 2 and settings.loss != "binary":
        raise SettingsError(f"a {settings.loss} loss needs --group 2 or more, got {settings.group}")
    set_seed(settings.seed)
    query_texts = [queries[name] for name in groups.query_ids]
    passage_texts = [passages[name] for name in groups.passage_ids]
    model.to(settings.device)  # type: ignore[arg-type]  # the type of a wrapped method lacks its self
    cache = StateCache.fill(
        model, tokenizer, query_texts, passage_texts, folder / "states", progress
    )

    def run_stage(collate: Collate, stage: int) -> None:
        _run_stage(model, groups, collate, folder, settings, stage, resume, progress)

    done = folder / "stage-one.pt"
    if resume and done.is_file():
        model.load_state_dict(torch.load(done, weights_only=True))
    else:
        initialise_projections(model, cache.passages[:, 0])
        model.encoder.requires_grad_(False)
        _run_stage(
            model, groups, cache.collate, folder / "stage-one", settings, 1, resume, progress
        )
        torch.save(model.state_dict(), done)
    model.encoder.requires_grad_(True)
    model.encoder.embeddings.requires_grad_(settings.train_embeddings)

    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        places = np.concatenate([item["passages"] for item in items])
        return {
            "queries": _inputs(
                tokenizer, [query_texts[i["query"]] for i in items], model.config.query_length
            ),
            "passages": _inputs(
                tokenizer, [passage_texts[place] for place in places], model.config.passage_length
            ),
            "labels": torch.from_numpy(np.stack([item["labels"] for item in items])),
        }

    run_stage(collate, 2)


def initialise_projections(model: DiPairModel, vectors: npt.NDArray[np.floating[Any]]) -> None:
    """Sets both projections to the leading directions of `vectors`: cosines survive them."""
    sample = np.asarray(vectors[:20_000], np.float32)
    directions = np.linalg.eigh(sample.T @ sample)[1][:, ::-1].T  # rows, largest first
    with torch.no_grad():
        for projection in cast("Iterable[nn.Linear]", model.projections.values()):
            rows = min(projection.out_features, len(directions))
            projection.weight[:rows] = torch.from_numpy(directions[:rows].copy())


def _run_stage(
    model: DiPairModel,
    groups: LabelledGroups,
    collate: Collate,
    folder: Path,
    settings: TrainingSettings,
    stage: int,
    resume: bool,
    progress: Progress,
) -> None:
    epochs = settings.stage_one_epochs if stage == 1 else settings.stage_two_epochs
    if epochs == 0:
        return

    def compute_loss(output: Mapping[str, Tensor], labels: Tensor, **_: Any) -> Tensor:
        loss = distillation_loss(
            settings.loss, output["logits"].float(), labels, temperature=settings.temperature
        )
        # in stage one the encoder is frozen, and its vectors with it
        if stage == 2 and settings.vector_weight:
            loss = loss + settings.vector_weight * vector_loss(
                output["query_vectors"].float(), output["passage_vectors"].float(), labels
            )
        return loss

    dataset = GroupDataset(groups, settings.group, settings.seed)
    schedule = Schedule(
        epochs=epochs,
        learning_rate=(
            settings.stage_one_learning_rate if stage == 1 else settings.stage_two_learning_rate
        ),
        batch_size=settings.batch_queries,
        max_steps=settings.max_steps,
        save_steps=settings.save_steps,
        seed=settings.seed,
        device=settings.device,
        half=settings.half,
    )
    with progress(f"training, stage {stage}", "steps") as report:
        run_training(
            model,
            dataset,
            collate,
            compute_loss,
            folder / f"stage-{stage}",
            schedule,
            resume=resume,
            report=report,
            on_epoch=dataset.begin_epoch,
        )


def _inputs(tokenizer: Any, texts: list[str], max_length: int) -> dict[str, Tensor]:
    batch = tokenizer(
        texts, truncation=True, max_length=max_length, padding=True, return_tensors="pt"
    )
    return {name: batch[name] for name in ("input_ids", "attention_mask")}
