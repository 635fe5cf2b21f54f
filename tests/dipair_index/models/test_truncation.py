from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dipair_index.models.truncation import keep_tokens


def slowly_kept(tokens: np.ndarray, count: int, keep: str) -> np.ndarray:
    """One text, token by token: (tokens, width) to (count, width)."""
    kept = list(tokens[:count] if keep == "first" else tokens[-count:])
    if keep == "spans" and count > 1:
        rest, spans = tokens[1:], count - 1
        of_span = [[] for _ in range(spans)]
        for place, token in enumerate(rest):
            of_span[place * spans // max(len(rest), spans)].append(token)
        kept = [tokens[0], *(np.mean(span, axis=0) for span in of_span if span)]
    elif keep == "spans":
        kept = [tokens[0]]
    return np.array([*kept, *np.zeros((count - len(kept), tokens.shape[1]))])


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=5),
    st.integers(1, 9),
    st.sampled_from(["first", "last", "spans"]),
    st.integers(0, 5),
)
def test_kept_tokens_are_those_of_each_text_alone(
    lengths: list[int], count: int, keep: str, padding: int
) -> None:
    room = max(lengths) + padding
    mask = (torch.arange(room) < torch.tensor(lengths)[:, None]).long()
    hidden = torch.randn(len(lengths), room, 3, generator=torch.Generator().manual_seed(0))
    kept = keep_tokens(hidden, mask, count, keep).numpy()
    for row, length in enumerate(lengths):
        expected = slowly_kept(hidden[row, :length].numpy(), count, keep)
        np.testing.assert_allclose(kept[row], expected, atol=1e-6)


def test_spans_share_the_rest_of_a_text_evenly() -> None:
    hidden = torch.arange(8.0).reshape(1, 8, 1)
    kept = keep_tokens(hidden, torch.ones(1, 8, dtype=torch.long), 4, "spans")
    # 1 2 3 | 4 5 | 6 7
    assert kept.flatten().tolist() == pytest.approx([0, 2, 4.5, 6.5])
