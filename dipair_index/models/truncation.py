"""Which of a text's output tokens are kept (DiPair, section 3.3), and how spans stand for all."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def keep_tokens(hidden: Tensor, attention_mask: Tensor, count: int, keep: str) -> Tensor:
    """Returns `count` tokens of each text, (texts, count, width), from (texts, tokens, width).

    "first" and "last" are the paper's. "spans" keeps the first token, and in the place of the
    others the means of `count - 1` consecutive spans of even length, so that the end of a text has
    its say: it is no part of the paper. A text with fewer tokens is filled with zeros.
    """
    hidden = hidden * attention_mask.unsqueeze(-1).to(hidden.dtype)
    if keep == "last":
        return hidden.gather(1, _last(attention_mask, count, hidden)) * _inside(
            attention_mask, count, hidden
        )
    if keep == "spans" and count > 1:
        hidden = torch.cat([hidden[:, :1], _means(hidden[:, 1:], attention_mask, count - 1)], dim=1)
    kept = hidden[:, :count]
    return functional.pad(kept, (0, 0, 0, count - kept.shape[1]))


def _means(hidden: Tensor, attention_mask: Tensor, spans: int) -> Tensor:
    """The mean of each span of the tokens after the first, (texts, spans, width)."""
    place = torch.arange(hidden.shape[1], device=hidden.device)
    # a text of fewer tokens than spans has one token a span
    length = (attention_mask.sum(1, keepdim=True) - 1).clamp(min=spans)
    span = (place * spans).div(length, rounding_mode="floor")  # (texts, tokens)
    belongs = span.unsqueeze(1) == torch.arange(spans, device=hidden.device).unsqueeze(-1)
    weight = (belongs & (attention_mask[:, None, 1:] > 0)).to(hidden.dtype)
    return weight @ hidden / weight.sum(-1, keepdim=True).clamp(min=1)


def _last(attention_mask: Tensor, count: int, hidden: Tensor) -> Tensor:
    """The places of the last tokens, (texts, count, width), as `gather` takes them."""
    start = (attention_mask.sum(1) - count).clamp(min=0)
    places = start[:, None] + torch.arange(count, device=hidden.device)
    places = places.clamp(max=hidden.shape[1] - 1).unsqueeze(-1)
    return places.expand(-1, -1, hidden.shape[-1])


def _inside(attention_mask: Tensor, count: int, hidden: Tensor) -> Tensor:
    """1 where a text has a token at that place of its last ones, else 0, (texts, count, 1)."""
    has = torch.arange(count, device=hidden.device) < attention_mask.sum(1, keepdim=True)
    return has.to(hidden.dtype).unsqueeze(-1)
