"""The settings of training; imports no torch, so that `dipair-index train --help` is fast."""

from __future__ import annotations

from dataclasses import dataclass

from dipair_index.errors import SettingsError
from dipair_index.models.systems import WeightCodec

LOSS_NAMES = (
    "binary", "regression", "multi-class", "margin-mse", "listwise", "both", "ranking",
)  # fmt: skip
"""The names of `dipair_index.training.losses.LOSSES`."""
GROUP_LOSSES = ("margin-mse", "listwise", "both", "ranking")
"""The losses that compare the passages of one query."""

BERT_TINY = "bert-tiny"
"""The name of the cross-encoder student; all others are `dipair_index.models.systems.SYSTEMS`."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a student trains: a step is `batch_queries` queries with `group` labelled tuples each.

    Stage one trains the new parameters on cached hidden states; stage two trains all parameters,
    or the encoder's top `stage_two_layers` layers with the projections and the head. With `stages`
    "one", there is stage two only. `projection_start` "principal" initialises the projections with
    the leading directions of the encoder's vectors, "random" with random weights, as the papers do,
    and "pretrained" with the projection of a late-interaction encoder. `vector_teacher` names a
    sentence embedder; the vectors of a model with `pooling="linear"` are fitted to its vectors
    before stage two.
    """

    loss: str = "both"
    temperature: float = 1.0
    vector_weight: float = 0.5
    group: int = 8
    batch_queries: int = 16
    stages: str = "two"
    stage_one_epochs: float = 20.0
    stage_one_learning_rate: float = 5e-4
    stage_two_epochs: float = 1.0
    stage_two_learning_rate: float = 5e-5
    stage_two_layers: int | None = None
    projection_start: str = "principal"
    vector_teacher: str | None = None
    warm_up: float = 0.1
    max_steps: int = -1
    save_steps: int = 200
    train_embeddings: bool = False
    weights: WeightCodec = "float16"
    seed: int = 0
    device: str = "cpu"
    bf16: bool = False

    def check(self, classes: int) -> None:
        """Raises `SettingsError` if the settings are invalid for labels of `classes` classes."""
        if self.loss not in LOSS_NAMES:
            raise SettingsError(f"there is no loss {self.loss}: choose {', '.join(LOSS_NAMES)}")
        if classes > 1 and self.loss != "multi-class":
            raise SettingsError(
                f"the labels have {classes} outputs per pair, and a {self.loss} loss learns one: "
                "pass --loss multi-class, or label with a teacher that has one output"
            )
        if classes == 1 and self.loss == "multi-class":
            raise SettingsError(
                "a multi-class loss needs a teacher with several outputs, and the labels have one "
                f"per pair: choose {', '.join(name for name in LOSS_NAMES if name != self.loss)}"
            )
        if self.group < 2 and self.loss in GROUP_LOSSES:
            raise SettingsError(f"a {self.loss} loss needs --group 2 or more, got {self.group}")
        if not self.temperature > 0:
            raise SettingsError(f"--temperature must be above 0, got {self.temperature:g}")
        if self.train_embeddings and self.stage_two_layers is not None:
            raise SettingsError(
                "--stage-two-layers freezes all below the top layers, and --train-embeddings "
                "trains the token embeddings below them: drop one of the two"
            )
