"""Distillation in two stages (DiPair, section 3.7): new parameters first, then everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import set_seed

from dipair_index.encoders.batches import padded, tokenise
from dipair_index.errors import SettingsError
from dipair_index.files import replacing
from dipair_index.formats.token_files import GivenTokens
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.prettr import JointLayersHead
from dipair_index.progress import Progress
from dipair_index.records import PAIR
from dipair_index.training.calibration import fit_similarity
from dipair_index.training.groups import GroupDataset, LabelledGroups, stacked_labels
from dipair_index.training.hidden_states import GivenStates, HiddenStateCache, hidden_states
from dipair_index.training.losses import LOSSES, vector_loss
from dipair_index.training.pretrained_tokens import fit_vectors, set_centre, token_states
from dipair_index.training.settings import TrainingSettings
from dipair_index.training.trainer import Schedule, run_training

Collate: TypeAlias = Callable[[list[dict[str, Any]]], dict[str, Any]]
"""A function that makes a batch of items of `GroupDataset`."""

DIRECTION_SAMPLE = 20_000
"""The number of vectors that the leading directions are computed from."""
SCALE_SAMPLE = 2_000
"""The number of queries that the scale of a similarity is fitted to."""


def train(
    model: DiPairModel,
    tokenizer: Any,
    groups: LabelledGroups,
    texts: Mapping[str, Mapping[str, str]],
    folder: Path,
    settings: TrainingSettings,
    *,
    progress: Progress,
    resume: bool = False,
    given: Mapping[str, GivenTokens] | None = None,
    on_save: Callable[[str], None] = lambda name: None,
) -> None:
    """Trains `model` in place; checkpoints and cached hidden states are written to `folder`.

    `texts` are by side and id; those of a side in `given` are the ids of its items. With `resume`,
    each stage continues from its last checkpoint. `on_save` is called with the name of each
    checkpoint, such as stage-1-step-200. Raises `SettingsError` if `settings` are invalid for this
    model, and `TrainingError` if the loss diverges.
    """
    settings.check(groups.classes)
    top_layers(model, settings.stage_two_layers)  # to fail now, not in stage two
    set_seed(settings.seed)
    texts_of = {
        side: model.config.as_read(side, [texts[side][name] for name in names])
        for side, names in groups.ids.items()
    }
    model.to(settings.device)  # type: ignore[arg-type]  # the type of a wrapped method lacks its self
    done = folder / "stage-one.pt"
    clusters = model.config.keep == "clusters"  # these are made of projected tokens
    if clusters and not (resume and done.is_file()):
        sample = token_states(model, tokenizer, texts_of["passage"])
        if settings.projection_start == "principal":
            initialise_projections(model, sample.cpu().numpy())
        set_centre(model, sample)
    if resume and done.is_file():
        model.load_state_dict(torch.load(done, weights_only=True))
    elif settings.stages == "two" and settings.stage_one_epochs:
        cache = HiddenStateCache.compute(
            model, tokenizer, texts_of, folder / "states", progress, bf16=settings.bf16, given=given
        )
        if settings.projection_start == "principal" and not clusters:
            states = cache.states["passage"][: direction_texts(model)]
            initialise_projections(model, direction_sample(model, states))
        items = GroupDataset(groups, settings.group, settings.seed)
        # a pair of prettr, whose tokens are many, takes a hundred times as long
        sample_size = SCALE_SAMPLE // (20 if model.config.system == "prettr" else 1)
        every = max(1, len(items) // sample_size)
        batches = [cache.collate([items[index]]) for index in range(0, len(items), every)]
        fit_similarity(model, batches, LOSSES[settings.loss], settings.temperature)
        for encoder in encoders(model):
            encoder.requires_grad_(False)
        _run_stage(model, groups, cache.collate, folder, settings, 1, resume, progress, on_save)
        with replacing(done) as unfinished:
            torch.save(model.state_dict(), unfinished)
    elif model.projections and settings.projection_start == "principal" and not (given or clusters):
        passages = texts_of["passage"]
        passages = passages[:: max(1, len(passages) // direction_texts(model))]
        states = hidden_states(model.eval(), tokenizer, "passage", passages, bf16=settings.bf16)
        initialise_projections(model, direction_sample(model, states))
    if settings.vector_teacher is not None:
        unread = {side: [texts[side][name] for name in groups.ids[side]] for side in PAIR}
        where = folder / "vectors"
        fit_vectors(model, tokenizer, unread, settings.vector_teacher, where, progress)
    unfreeze(model, settings)
    tokens_of = {
        side: GivenStates(tokens, texts_of[side], model.config.kept(side))
        for side, tokens in (given or {}).items()
    }

    def inputs(side: str, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        rows = np.concatenate([np.ravel(item[side]) for item in items])
        if side in tokens_of:
            return {"states": torch.from_numpy(tokens_of[side][rows])}
        chosen = [texts_of[side][row] for row in rows]
        return _inputs(tokenizer, chosen, model.config.text_length(side))

    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "texts": {side: inputs(side, items) for side in model.config.sides},
            "labels": stacked_labels(items),
        }

    _run_stage(model, groups, collate, folder, settings, 2, resume, progress, on_save)


def initialise_projections(model: DiPairModel, vectors: npt.NDArray[np.floating[Any]]) -> None:
    """Sets all projections to the leading directions of `vectors`, (vectors, vector_dim).

    They preserve cosines best among projections to so few dimensions. prettr expands its tokens by
    the same directions. Projections of another width, those of given sides, begin at random.
    """
    sample = np.asarray(vectors, np.float32)
    directions = np.linalg.eigh(sample.T @ sample)[1][:, ::-1].T  # rows, largest first
    with torch.no_grad():
        for projection in cast("Iterable[nn.Linear]", model.projections.values()):
            if projection.in_features != sample.shape[1]:
                continue
            rows = min(len(projection.weight), len(directions))
            projection.weight[:rows] = torch.from_numpy(directions[:rows].copy())
    if isinstance(model.head, JointLayersHead):
        model.head.start_expansions(cast("Mapping[str, nn.Linear]", model.projections))


def direction_sample(
    model: DiPairModel, states: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.floating[Any]]:
    """Returns the vectors, (vectors, vector_dim), whose directions the projections begin with.

    They are the first of each text's states, (texts, kept, vector_dim). prettr, which has nothing
    but the projected tokens, begins with the directions of all of them.
    """
    if model.config.system != "prettr":
        return states[:, 0]
    tokens = states.reshape(-1, states.shape[-1])
    return tokens[tokens.any(-1)]


def direction_texts(model: DiPairModel) -> int:
    """Returns from how many texts a sample of `DIRECTION_SAMPLE` vectors is taken."""
    a_text = model.config.max_passage_tokens if model.config.system == "prettr" else 1
    return max(1, DIRECTION_SAMPLE // a_text)


def unfreeze(model: DiPairModel, settings: TrainingSettings) -> None:
    """Unfreezes the layers that stage two trains."""
    layers = top_layers(model, settings.stage_two_layers)
    for encoder in encoders(model):
        encoder.requires_grad_(settings.stage_two_layers is None)
        # not all model families have an attribute of this name
        embeddings = getattr(encoder, "embeddings", None) or encoder.get_input_embeddings()
        embeddings.requires_grad_(settings.train_embeddings)
    for layer in layers:
        layer.requires_grad_(True)


def encoders(model: DiPairModel) -> list[Any]:
    """Returns the encoders of a model; a single one if the sides share it."""
    return [model.encoder, *model.other_encoders.values()]


def top_layers(model: DiPairModel, count: int | None) -> list[nn.Module]:
    """Returns the top `count` layers of each encoder; none if `count` is None.

    Raises `SettingsError` if an encoder has fewer layers, or if its layers are not a `ModuleList`.
    """
    if count is None:
        return []
    chosen: list[nn.Module] = []
    for encoder in encoders(model):
        depth = encoder.config.num_hidden_layers
        stacks = (module for module in encoder.modules() if isinstance(module, nn.ModuleList))
        if count > depth:
            raise SettingsError(f"--stage-two-layers {count} is more than the encoder's {depth}")
        layers = list(next((stack for stack in stacks if len(stack) == depth), ()))
        if not layers:  # as in ALBERT, whose layers share their weights
            raise SettingsError(
                f"the layers of the encoder ({encoder.config.model_type}) cannot be trained one "
                "by one: omit --stage-two-layers"
            )
        chosen += layers[depth - count :]
    return chosen


def group_schedule(settings: TrainingSettings, *, epochs: float, learning_rate: float) -> Schedule:
    """Returns the schedule of one stage."""
    return Schedule(
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=settings.batch_queries,
        warm_up=settings.warm_up,
        max_steps=settings.max_steps,
        save_steps=settings.save_steps,
        seed=settings.seed,
        device=settings.device,
        bf16=settings.bf16,
    )


def _run_stage(
    model: DiPairModel,
    groups: LabelledGroups,
    collate: Collate,
    folder: Path,
    settings: TrainingSettings,
    stage: int,
    resume: bool,
    progress: Progress,
    on_save: Callable[[str], None],
) -> None:
    epochs = settings.stage_one_epochs if stage == 1 else settings.stage_two_epochs
    if epochs == 0:
        return
    # in stage one the encoder and thus its vectors are frozen; classes give no order of passages
    vectors = stage == 2 and settings.vector_weight > 0 and groups.classes == 1

    def compute_loss(output: Any, labels: Tensor) -> Tensor:
        loss = LOSSES[settings.loss](output["logits"].float(), labels, settings.temperature)
        if vectors:
            loss = loss + settings.vector_weight * vector_loss(
                output["query_vectors"].float(), output["passage_vectors"].float(), labels
            )
        return loss

    rate = settings.stage_one_learning_rate if stage == 1 else settings.stage_two_learning_rate
    dataset = GroupDataset(groups, settings.group, settings.seed)
    with progress(f"training, stage {stage}", "steps") as report:
        run_training(
            model,
            dataset,
            collate,
            compute_loss,
            folder / f"stage-{stage}",
            group_schedule(settings, epochs=epochs, learning_rate=rate),
            resume=resume,
            report=report,
            on_epoch=dataset.begin_epoch,
            on_save=lambda step: on_save(f"stage-{stage}-step-{step}"),
        )


def _inputs(tokenizer: Any, texts: list[str], max_length: int) -> dict[str, Tensor]:
    batch = padded(tokenizer, tokenise(tokenizer, texts, max_length=max_length).ids)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}
