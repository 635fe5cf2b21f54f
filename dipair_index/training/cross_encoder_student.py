"""A small cross-encoder distilled from a teacher's labels: BERT-Tiny, DiPair's baseline (4.2)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import set_seed

from dipair_index.data.dataset import Dataset
from dipair_index.encoders.cross_encoders import (
    PASSAGE_TOKENS,
    QUERY_TOKENS,
    TransformersTeacher,
    set_longest_input,
)
from dipair_index.models.pretrained import load_classifier
from dipair_index.models.tokenizers import check_length, load_tokenizer
from dipair_index.training.cross_encoder import (
    fit,
    random_bert_tiny,
    saver,
)
from dipair_index.training.data import TrainingData, measure
from dipair_index.training.losses import LOSSES
from dipair_index.training.run import TrainingRun
from dipair_index.training.settings import BERT_TINY, TrainingSettings
from dipair_index.training.stages import group_schedule


def distil_cross_encoder(
    dataset: Dataset,
    labels: Path,
    run: TrainingRun,
    *,
    encoder: str,
    layers: int | None,
    settings: TrainingSettings,
    random_start: bool = False,
    query_length: int = QUERY_TOKENS,
    passage_length: int = PASSAGE_TOKENS,
) -> dict[str, Any]:
    """Trains a cross-encoder on `labels` and saves it as transformers' sequence classifier.

    It starts from the first `layers` layers of `encoder`, or, with `random_start`, from random
    weights of BERT-Tiny's size with the tokenizer of `encoder`. A tuple is truncated to
    `query_length` tokens plus `passage_length` for each further side. There is one stage, with the
    epochs and the learning rate of stage two. Returns and raises the same as
    `dipair_index.training.distil.distil`.
    """
    data = TrainingData.read(dataset, labels, settings)
    set_seed(settings.seed)
    if random_start:
        tokenizer = load_tokenizer(encoder)
        model = random_bert_tiny(tokenizer, layers=layers, outputs=data.groups.classes)
    else:
        model = load_classifier(encoder, layers=layers, outputs=data.groups.classes)
        tokenizer = load_tokenizer(encoder, model)
    length = query_length + passage_length * (len(data.sides) - 1)
    check_length(tokenizer, length, "the length of a tuple", pair=True)
    run.begin(
        {
            "system": BERT_TINY,
            "encoder": encoder,
            "layers": layers,
            "sides": list(data.sides),
            "random_start": random_start,
            "training": asdict(settings),
            **data.record,
            # saved with the model, so that it truncates texts as in training
            "max_tokens": set_longest_input(model, tokenizer, length),
        }
    )

    def compute_loss(logits: Tensor, teacher: Tensor) -> Tensor:
        return LOSSES[settings.loss](logits, teacher, settings.temperature)

    schedule = group_schedule(
        settings,
        epochs=settings.stage_two_epochs,
        learning_rate=settings.stage_two_learning_rate,
    )
    fit(
        model,
        tokenizer,
        data.groups,
        data.texts,
        compute_loss,
        run,
        schedule,
        group=settings.group,
    )
    student = TransformersTeacher(model, tokenizer, name=str(run.out))
    quality = measure(data.held_out, lambda texts: student.logits(*texts.values()))
    return run.finish(quality, saver(model, tokenizer))
