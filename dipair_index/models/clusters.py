"""Token pooling by clusters: many token embeddings become few, the means of similar ones.

Source: Clavié, Chaffin and Adams, "Reducing the Footprint of Multi-Vector Retrieval with Minimal
Performance Impact via Token Pooling", arXiv 2409.14683. Imports no torch.

Deviation: the mean of a cluster gets the mean length of its members. A mean of different vectors is
shorter than they are, and would be the most similar token to nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dipair_index.records import FloatArray

SHORTEST = 1e-6
"""The least length that a vector is divided by."""


def cluster_means(tokens: FloatArray, count: int) -> FloatArray:
    """Returns at most `count` tokens, (clusters, dim), of `tokens`, (tokens, dim).

    At most `count` tokens are returned as they are.
    """
    if len(tokens) <= count:
        return tokens
    shares = cluster_shares(tokens, count)
    lengths = np.linalg.norm(tokens, axis=1)
    means = shares @ tokens
    factors = shares @ lengths / np.maximum(np.linalg.norm(means, axis=1), SHORTEST)
    pooled: FloatArray = (means * factors[:, None]).astype(np.float32)
    return pooled


def cluster_shares(tokens: FloatArray, count: int) -> FloatArray:
    """Returns the weights of tokens, (tokens, dim), in the means of clusters, (count, tokens).

    The clusters are those of `ward` over the directions of the tokens, in the order of their first
    members; a row's weights are equal and add up to one. There are `count` tokens or more.
    """
    lengths = np.linalg.norm(tokens, axis=1, keepdims=True)
    labels = ward(tokens / np.maximum(lengths, SHORTEST), count)
    belongs = (labels == np.arange(count)[:, None]).astype(np.float32)
    shares: FloatArray = belongs / belongs.sum(1, keepdims=True)
    return shares


def ward(points: FloatArray, count: int) -> npt.NDArray[np.int64]:
    """Returns the cluster of each point, (points,), 0 to `count` - 1 in the order of first members.

    Begins with a cluster for each point, and merges the two whose merging adds least to the sum of
    squared distances from the clusters' centroids, until `count` are left (Ward, "Hierarchical
    grouping to optimize an objective function", JASA 58, 1963). scipy has the same, but is too
    large for an installation that only searches.
    """
    total = len(points)
    labels = np.arange(total)
    centroids, sizes = points.astype(np.float64), np.ones(total)
    costs = np.full((total, total), np.inf)
    for row in range(total - 1):
        costs[row, row + 1 :] = _costs(centroids, sizes, row)[row + 1 :]
    costs = np.minimum(costs, costs.T)
    for _ in range(total - count):
        into, merged = sorted(divmod(int(costs.argmin()), total))
        weights = sizes[[into, merged]] / sizes[[into, merged]].sum()
        centroids[into] = weights @ centroids[[into, merged]]
        sizes[into] += sizes[merged]
        sizes[merged] = 0
        labels[labels == merged] = into
        costs[into] = costs[:, into] = _costs(centroids, sizes, into)
        costs[merged] = costs[:, merged] = np.inf
    return np.unique(labels, return_inverse=True)[1]


def _costs(
    centroids: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], row: int
) -> npt.NDArray[np.float64]:
    """Costs of merging a cluster with each other; infinite for itself and empty ones."""
    squares = ((centroids - centroids[row]) ** 2).sum(1)
    costs: npt.NDArray[np.float64] = sizes[row] * sizes / (sizes[row] + sizes) * squares
    costs[sizes == 0] = costs[row] = np.inf
    return costs
