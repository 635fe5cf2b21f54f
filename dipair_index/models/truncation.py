"""Truncation of an encoder's output to a few tokens (DiPair, section 3.3), and token pooling."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dipair_index.models.clusters import SHORTEST, cluster_shares


def keep_tokens(hidden: Tensor, attention_mask: Tensor, count: int, keep: str) -> Tensor:
    """Returns the truncated output of each text, (texts, count, width).

    `hidden` are the hidden states, (texts, tokens, width), and `attention_mask` is (texts, tokens).
    `keep` is "first" or "last", as in the paper, or "spans", which is token pooling and no part of
    the paper: the first token, and the means of `count - 1` consecutive spans of nearly equal
    length over the other tokens, so that the end of a text counts too. A text with fewer than
    `count` tokens is padded with zeros.
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
    """Returns the mean of each span of the tokens after the first, (texts, spans, width)."""
    position = torch.arange(hidden.shape[1], device=hidden.device)
    # a text of fewer tokens than spans has one token per span
    length = (attention_mask.sum(1, keepdim=True) - 1).clamp(min=spans)
    span = (position * spans).div(length, rounding_mode="floor")  # (texts, tokens)
    belongs = span.unsqueeze(1) == torch.arange(spans, device=hidden.device).unsqueeze(-1)
    weight = (belongs & (attention_mask[:, None, 1:] > 0)).to(hidden.dtype)
    return weight @ hidden / weight.sum(-1, keepdim=True).clamp(min=1)


def _last(attention_mask: Tensor, count: int, hidden: Tensor) -> Tensor:
    """Returns the positions of the last tokens, (texts, count, width), for `gather`."""
    start = (attention_mask.sum(1) - count).clamp(min=0)
    positions = start[:, None] + torch.arange(count, device=hidden.device)
    positions = positions.clamp(max=hidden.shape[1] - 1).unsqueeze(-1)
    return positions.expand(-1, -1, hidden.shape[-1])


def _inside(attention_mask: Tensor, count: int, hidden: Tensor) -> Tensor:
    """Returns the mask of the last tokens, (texts, count, 1): 0 for the padding of short texts."""
    has = torch.arange(count, device=hidden.device) < attention_mask.sum(1, keepdim=True)
    return has.to(hidden.dtype).unsqueeze(-1)


def pool_clusters(tokens: Tensor, attention_mask: Tensor, count: int) -> Tensor:
    """Returns the means of clusters of each text's tokens, (texts, count, dim).

    It is `cluster_means` for a batch of `tokens`, (texts, tokens, dim), with gradients, to which
    the clusters are constants, but not their means and lengths. A text with fewer tokens than
    `count` is padded with zeros.
    """
    longest = max(tokens.shape[1], count)
    shares = np.zeros((len(tokens), count, longest), np.float32)
    for row, length in enumerate(attention_mask.sum(1).tolist()):
        found = tokens[row, :length].detach().float().cpu().numpy()
        few = length <= count
        shares[row, : min(length, count), :length] = (
            np.eye(length) if few else cluster_shares(found, count)
        )
    weights = torch.from_numpy(shares[:, :, : tokens.shape[1]]).to(tokens)
    means = weights @ tokens
    lengths = weights @ tokens.norm(dim=-1, keepdim=True)
    pooled: Tensor = means * (lengths / means.norm(dim=-1, keepdim=True).clamp(min=SHORTEST))
    return pooled
