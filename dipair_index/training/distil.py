"""Distils a DiPair model from a labelled dataset, as `dipair-index train` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import set_seed

from dipair_index.data.dataset import Dataset
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.encoders.given_sides import give_all
from dipair_index.encoders.scorers import score_tuples
from dipair_index.errors import SettingsError
from dipair_index.formats.token_files import GivenTokens
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.tokenizers import check_length, load_tokenizer
from dipair_index.models.weights import round_weights, save_weights
from dipair_index.training.data import TrainingData, measure
from dipair_index.training.pretrained_tokens import load_projection
from dipair_index.training.run import TrainingRun
from dipair_index.training.settings import TrainingSettings
from dipair_index.training.stages import train


def distil(
    dataset: Dataset,
    labels: Path,
    run: TrainingRun,
    *,
    encoder: str,
    layers: int | None,
    model_settings: Mapping[str, Any],
    settings: TrainingSettings,
    given: Mapping[str, GivenTokens] | None = None,
    keep_checkpoints: Path | None = None,
) -> dict[str, Any]:
    """Trains a DiPair model on a teacher's labels, and saves it with its tokenizer.

    Parameters
    ----------
    dataset : Dataset
        The texts, and the valid and test tuples.
    labels : Path
        The folder of the teacher's labels.
    run : TrainingRun
        Keeps the checkpoints, and saves the model.
    encoder : str
        The pretrained encoder that the model starts from, by folder or hub name.
    layers : int or None
        The number of the encoder's layers to use; None is all.
    model_settings : mapping
        Settings of `DiPairConfig`. Classes come from the labels, and further sides from the
        dataset, with the passage's lengths for those that `extra_sides` does not name.
    settings : TrainingSettings
        Settings of the training.
    given : mapping, optional
        Token embeddings by side, from outside. The texts of such a side are the ids of its items.
    keep_checkpoints : Path, optional
        Write a model of each checkpoint into this folder.

    Returns
    -------
    dict
        The contents of `training.json`, with the quality on the valid and test tuples.

    Raises
    ------
    FormatError, SettingsError
        As `TrainingData.read` does.
    SettingsError, DirectoryError
        As `TrainingRun.begin` does.
    TrainingError
        If the loss diverges.
    """
    data = TrainingData.read(dataset, labels, settings)
    model_settings = complete_settings(model_settings, data.sides, data.groups.classes)
    given = given or {}
    for side, tokens in given.items():
        if side in data.sides:
            tokens.rows(sorted(data.texts[side].values()))  # to fail now, not after the training
    sizes = {side: [tokens.kept, tokens.width] for side, tokens in given.items()}
    if sizes:
        model_settings["given_sides"] = sizes
    set_seed(settings.seed)
    model = DiPairModel.from_encoder(encoder, layers=layers, **model_settings)
    if settings.projection_start == "pretrained":
        load_projection(model, encoder)
    tokenizer = load_tokenizer(encoder, model.encoder)
    for side in (each for each in data.sides if each not in model.config.given_sides):
        check_length(tokenizer, model.config.text_length(side), f"the length of a {side}")
    run.begin(
        {
            "encoder": encoder,
            "layers": layers,
            "model": dict(model_settings),
            "training": asdict(settings),
            **data.record,
            **({"given": {side: tokens.digest for side, tokens in given.items()}} if given else {}),
        }
    )

    def save(folder: Path) -> None:
        save_weights(model, folder, codec=settings.weights)
        tokenizer.save_pretrained(folder)

    def keep(name: str) -> None:
        if keep_checkpoints is not None:
            save(keep_checkpoints / name)

    train(
        model,
        tokenizer,
        data.groups,
        data.texts,
        run.working,
        settings,
        progress=run.progress,
        resume=run.resume,
        given=given,
        on_save=keep,
    )
    round_weights(model, settings.weights)  # the weights that will be loaded are evaluated
    student = DualEncoder(model, tokenizer, name=str(run.out), device=settings.device)
    give_all(student, given)
    return run.finish(measure(data.held_out, lambda texts: score_tuples(student, texts)), save)


def complete_settings(
    model_settings: Mapping[str, Any], sides: Sequence[str], classes: int
) -> dict[str, Any]:
    """Returns `model_settings` with the classes and the extra sides of a dataset.

    Raises `SettingsError` if `extra_sides` names a side that the dataset does not have.
    """
    asked = dict(model_settings.get("extra_sides") or {})
    extra = sides[2:]
    unknown = [side for side in asked if side not in extra]
    if unknown:
        has = f"{', '.join(extra)} beside query and passage" if extra else "query and passage only"
        raise SettingsError(f"the dataset has no side {unknown[0]}: it has {has}")
    usual = [model_settings.get("max_passage_tokens", 8), model_settings.get("passage_length", 128)]
    extra_sides = {side: list(asked.get(side, usual)) for side in extra}
    return {**model_settings, "classes": classes, "extra_sides": extra_sides}
