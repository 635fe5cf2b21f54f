"""The losses of a student against its teacher's logits.

Every loss takes the logits of the student and of the teacher for B queries with G passages (or
tuples) each, (B, G), or (B, G, classes) for `multi_class`, and a temperature T by which the
teacher's logits z are divided. A teacher's logit of NaN marks a pair without a label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

DISTANCE_WEIGHT, LEVEL_WEIGHT = 0.05, 0.02
"""The weights of the squared errors in `ranking`."""

Loss: TypeAlias = Callable[[Tensor, Tensor, float], Tensor]


def binary(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy against sigmoid(z / T) (DiPair, section 4.3)."""
    known = ~teacher.isnan()
    target = torch.sigmoid(teacher[known] / temperature)
    loss = functional.binary_cross_entropy_with_logits(student[known], target, reduction="sum")
    return loss / known.sum().clamp(min=1)


def regression(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Squared error against z / T, as in DSE (Barkan et al., AAAI 2020)."""
    known = ~teacher.isnan()
    error = student[known] - teacher[known] / temperature
    return error.square().sum() / known.sum().clamp(min=1)


def multi_class(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy against softmax(z / T) over the teacher's outputs (section 3.6)."""
    known = ~teacher.isnan().any(-1)  # (B, G)
    target = (teacher[known] / temperature).softmax(-1)
    loss = functional.cross_entropy(student[known], target, reduction="sum")
    return loss / known.sum().clamp(min=1)


def margin_mse(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Squared error of the margins between passages of one query, for ranking.

    The mean over all pairs of labelled passages of the same query (Hofstaetter et al., 2020,
    "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation",
    arXiv 2010.02666).
    """
    known = ~teacher.isnan()
    error = (student - teacher / temperature).masked_fill(~known, 0)
    margins = (error.unsqueeze(2) - error.unsqueeze(1)).square()  # (B, G, G), zero diagonal
    pairs = (known.unsqueeze(2) & known.unsqueeze(1)).triu(1)
    return (margins * pairs).sum() / pairs.sum().clamp(min=1)


def listwise(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergence between the distributions over each query's passages, for ranking."""
    known = ~teacher.isnan()
    lowest = torch.finfo(student.dtype).min
    log_student = student.masked_fill(~known, lowest).log_softmax(-1)
    log_teacher = (teacher / temperature).masked_fill(~known, lowest).log_softmax(-1)
    return functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def both(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """The sum of `binary` and `listwise`."""
    return binary(student, teacher, temperature) + listwise(student, teacher, temperature)


def ranking(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """The order of each query's passages, their distances, and a little of the level.

    The sum of the KL divergence at the temperature, of both sides and times its square (Hinton et
    al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 2), and of the
    squared errors of the logits, with and without each query's mean error, by weights that keep the
    divergence in the lead.
    """
    known = ~teacher.isnan()
    order = listwise(student / temperature, teacher, temperature) * temperature**2
    error = (student - teacher).masked_fill(~known, 0)
    mean = error.sum(-1, keepdim=True) / known.sum(-1, keepdim=True).clamp(min=1)
    distance = (error - mean).masked_fill(~known, 0).square()
    total = known.sum().clamp(min=1)
    return order + (DISTANCE_WEIGHT * distance + LEVEL_WEIGHT * error.square()).sum() / total


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        "binary": binary,
        "regression": regression,
        "multi-class": multi_class,
        "margin-mse": margin_mse,
        "listwise": listwise,
        "both": both,
        "ranking": ranking,
    }
)
"""The losses by the names of `--loss`."""


def vector_loss(
    queries: Tensor, passages: Tensor, teacher: Tensor, *, scale: float = 20.0
) -> Tensor:
    """Cross-entropy of the pooled vectors, so that they stay useful for retrieval.

    `queries` are (B, dim) and `passages` (B, G, dim). The target of each query is the teacher's
    distribution over its own passages, and zero for the passages of the other queries in the
    batch. The loss is the mean over queries with two labels or more, since the distribution over
    a single label carries no information.
    """
    count, group = teacher.shape
    cosines = scale * queries @ passages.flatten(0, 1).T  # (B, B * G)
    known = ~teacher.isnan()
    lowest = torch.finfo(cosines.dtype).min
    target = cosines.new_zeros(count, count, group)
    own = torch.arange(count, device=cosines.device)
    target[own, own] = teacher.masked_fill(~known, lowest).softmax(-1)
    unlabelled = torch.zeros(count, count, group, dtype=torch.bool, device=cosines.device)
    unlabelled[own, own] = ~known
    cosines = cosines.masked_fill(unlabelled.flatten(1), lowest)
    compared = known.sum(1) > 1
    loss = functional.cross_entropy(cosines[compared], target.flatten(1)[compared], reduction="sum")
    return loss / compared.sum().clamp(min=1)
