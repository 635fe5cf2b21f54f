"""Fits the initial scale and bias of a similarity to the teacher's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dipair_index.models.aligned_head import AlignedHead
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.heads import SimilarityHead
from dipair_index.models.transformer_head import ClassHead
from dipair_index.training.losses import Loss

STEPS = 100


def fit_similarity(
    model: DiPairModel, batches: Sequence[Mapping[str, Any]], loss: Loss, temperature: float
) -> None:
    """Sets the scale a and the bias b of a head's similarity s to minimise loss(a * s + b, labels).

    A teacher's logits are spread much wider than an encoder's cosines, and a head that has to
    learn the scale by gradient steps learns little else meanwhile. Heads without a similarity, and
    heads of several classes, are left unchanged. The batches are those of
    `HiddenStateCache.collate`.
    """
    head = model.head
    if isinstance(head, SimilarityHead | AlignedHead):
        scale, bias = head.similarity_scale, head.bias
    elif isinstance(head, ClassHead) and head.has_residual and len(head.output.bias) == 1:
        scale, bias = head.similarity_scale, head.output.bias
    else:
        return
    similarities, labels = [], []
    model.eval()
    with torch.no_grad():
        for batch in batches:
            states = {side: rows.to(model.device) for side, rows in batch["states"].items()}
            similarities.append((model(states=states).logits - bias) / scale)
            labels.append(batch["labels"].to(model.device))
    similarity, label = torch.cat(similarities), torch.cat(labels)
    fitted = torch.stack([scale.detach().squeeze(), bias.detach().squeeze()]).requires_grad_()
    optimizer = torch.optim.LBFGS([fitted], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(fitted[0] * similarity + fitted[1], label, temperature)
        value.backward()
        return value

    optimizer.step(closure)
    # if the labels contradict the similarity (a <= 0), it is left unchanged
    if torch.isfinite(fitted).all() and fitted[0] > 0:
        with torch.no_grad():
            scale.fill_(fitted[0].item())
            bias.fill_(fitted[1].item())
