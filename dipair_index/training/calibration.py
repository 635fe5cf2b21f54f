"""Where a similarity begins: the scale and the bias that fit the teacher's labels best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dipair_index.models.dipair import DiPairModel
from dipair_index.models.heads import SimilarityHead
from dipair_index.models.transformer_head import ClassHead
from dipair_index.training.losses import Loss

STEPS = 100


def fit_similarity(
    model: DiPairModel, batches: Sequence[Mapping[str, Any]], loss: Loss, temperature: float
) -> None:
    """Sets the scale and the bias of a head's similarity to what the labels of `batches` ask for.

    A teacher's logits are spread much wider than an encoder's cosines: a head that has to learn
    so by small steps learns little else for long. Nothing happens to heads without a similarity,
    and to those of several classes. The batches are those of `StateCache.collate`.
    """
    head = model.head
    if isinstance(head, SimilarityHead):
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
    # a similarity that the labels contradict stays as it was
    if torch.isfinite(fitted).all() and fitted[0] > 0:
        with torch.no_grad():
            scale.fill_(fitted[0].item())
            bias.fill_(fitted[1].item())
