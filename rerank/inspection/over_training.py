"""How tokens and logits change over a training, from the models of its checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import DirectoryError
from dipair_index.rerank.inspection.pair import Redundancy, split_logits


class Moment(NamedTuple):
    """A checkpoint: how alike the tokens of passages are, and what their logits are made of.

    The spreads are standard deviations over all pairs of queries and passages: of the similarity at
    which the head begins, and of what the head adds to it.
    """

    checkpoint: str
    mean_cosine: float
    effective_rank: float
    similarity_spread: float
    added_spread: float


class Course(NamedTuple):
    """The checkpoints of a training, in their order."""

    queries: int
    passages: int
    moments: list[Moment]

    def record(self) -> dict[str, Any]:
        """The same as JSON."""
        return {**self._asdict(), "moments": [each._asdict() for each in self.moments]}


def inspect_course(
    folder: Path,
    queries: Sequence[str],
    passages: Sequence[str],
    *,
    device: str = "cpu",
    report: Callable[[int], None] = lambda count: None,
) -> Course:
    """Inspects the models that `train --keep-checkpoints` has written into a folder.

    `report` is called with the number of models done. Raises `DirectoryError` if there are none,
    and `ModelError` if one cannot be loaded.
    """
    moments = []
    for done, model in enumerate(kept_checkpoints(folder), start=1):
        encoder = DualEncoder.load(model, device=device)
        tokens = encoder.encode_passages(passages).tokens
        alike = [Redundancy.of(each) for each in tokens]
        logits = [
            logit
            for asked in encoder.encode_queries(queries).tokens
            for logit in split_logits(encoder, asked, tokens)
        ]
        moments.append(
            Moment(
                model.name,
                float(np.mean([each.mean_cosine for each in alike])),
                float(np.mean([each.effective_rank for each in alike])),
                float(np.std([each.similarity for each in logits])),
                float(np.std([each.added for each in logits])),
            )
        )
        report(done)
    return Course(len(queries), len(passages), moments)


def kept_checkpoints(folder: Path) -> list[Path]:
    """Returns the models in a folder, by stage and step.

    Raises `DirectoryError` if there are none.
    """
    found = {
        tuple(map(int, named.groups())): path
        for path in folder.glob("stage-*-step-*")
        if (named := re.fullmatch(r"stage-(\d+)-step-(\d+)", path.name))
    }
    if not found:
        raise DirectoryError(
            f"{folder} holds no models of checkpoints: write some with `dipair-index train "
            "--keep-checkpoints FOLDER`"
        )
    return [found[when] for when in sorted(found)]
