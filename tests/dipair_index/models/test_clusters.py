"""Token pooling by clusters, against scipy and against a slow twin, in numpy and in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.cluster.hierarchy import fcluster, linkage

from dipair_index.models.clusters import cluster_means, cluster_shares, ward
from dipair_index.models.truncation import pool_clusters
from dipair_index.records import FloatArray


def random_tokens(seed: int, count: int, dim: int = 8) -> FloatArray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 7, 19, 40])
@pytest.mark.parametrize("seed", range(5))
def test_the_clusters_are_those_of_scipy(seed: int, count: int) -> None:
    points = random_tokens(seed, 40)
    labels = ward(points, count)
    known = fcluster(linkage(points.astype(np.float64), "ward"), count, "maxclust")
    pairs = set(zip(labels.tolist(), known.tolist(), strict=True))
    assert len(pairs) == len(set(labels.tolist())) == count


def test_clusters_are_numbered_by_their_first_members() -> None:
    points = np.array([[5, 0], [0, 0], [5, 1], [0, 1], [9, 9]], np.float32)
    assert ward(points, 3).tolist() == [0, 1, 0, 1, 2]


def test_a_mean_has_the_mean_length_of_its_members() -> None:
    tokens = np.array([[2, 0.2], [4, -0.4], [0, 3]], np.float32)
    first, second = cluster_means(tokens, 2)
    lengths = np.linalg.norm(tokens, axis=1)
    np.testing.assert_allclose(second, [0, 3], rtol=1e-6)
    assert np.linalg.norm(first) == pytest.approx((lengths[0] + lengths[1]) / 2, rel=1e-6)
    np.testing.assert_allclose(first / np.linalg.norm(first), [3, -0.1] / np.hypot(3, 0.1), 1e-5)


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 12), st.just(3)),
        elements=st.floats(-2, 2, width=16),
    ),
    st.integers(1, 12),
)
@settings(deadline=None, max_examples=100)
def test_every_token_counts_once(tokens: FloatArray, count: int) -> None:
    if len(tokens) <= count:
        np.testing.assert_array_equal(cluster_means(tokens, count), tokens)
        return
    shares = cluster_shares(tokens, count)
    assert ((shares > 0).sum(0) == 1).all()
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert cluster_means(tokens, count).shape == (count, 3)
    assert np.isfinite(cluster_means(tokens, count)).all()


@pytest.mark.parametrize("count", [2, 5, 9])
def test_torch_pools_a_batch_as_numpy_pools_each_text(count: int) -> None:
    lengths = [9, 5, 1, 3]
    tokens = torch.zeros(4, 9, 8)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.from_numpy(random_tokens(row, length))
    mask = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
    pooled = pool_clusters(tokens, mask, count)
    assert pooled.shape == (4, count, 8)
    for row, length in enumerate(lengths):
        expected = cluster_means(tokens[row, :length].numpy(), count)
        np.testing.assert_allclose(pooled[row, : len(expected)], expected, atol=1e-6)
        assert not pooled[row, len(expected) :].any()


def test_gradients_reach_the_members_of_a_cluster() -> None:
    tokens = torch.tensor([[[1.0, 0.1], [1.0, -0.1], [0.0, 2.0]]], requires_grad=True)
    pooled = pool_clusters(tokens, torch.ones(1, 3, dtype=torch.long), 2)
    pooled[0, 0].sum().backward()
    assert tokens.grad is not None
    assert tokens.grad[0, :2].all()
    assert not tokens.grad[0, 2].any()
