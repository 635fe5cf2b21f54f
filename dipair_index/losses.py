"""What the student minimises against its teacher's logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def distillation_loss(
    loss: str, student: Tensor, teacher: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Returns the loss of logits (queries, passages) against the teacher's; NaN has no label.

    binary: cross-entropy against sigmoid(z / T) (DiPair, section 4.3). listwise: KL divergence
    between the distributions over each query's passages, for users who rank. both: their sum.
    """
    known = ~teacher.isnan()
    total = student.new_zeros(())
    if loss in ("binary", "both"):
        target = torch.sigmoid(teacher[known] / temperature)
        total = total + functional.binary_cross_entropy_with_logits(student[known], target)
    if loss in ("listwise", "both"):
        total = total + _listwise(student, teacher / temperature, known)
    return total


def _listwise(student: Tensor, teacher: Tensor, known: Tensor) -> Tensor:
    lowest = torch.finfo(student.dtype).min
    log_student = student.masked_fill(~known, lowest).log_softmax(-1)
    log_teacher = teacher.masked_fill(~known, lowest).log_softmax(-1)
    return functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def vector_loss(
    queries: Tensor, passages: Tensor, teacher: Tensor, *, scale: float = 20.0
) -> Tensor:
    """Keeps the pooled vectors good for retrieval: (B, dim) against (B, G, dim).

    The target of each query is its teacher's distribution over its own passages; the passages of
    the other queries in the batch share none of it.
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
    return functional.cross_entropy(cosines, target.flatten(1))
