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
    squares = (centroids**2).sum(1)
    # a merging of a and b adds |a| |b| / (|a| + |b|) times the squared distance of their centroids
    costs = (squares[:, None] + squares - 2 * centroids @ centroids.T) / 2
    np.fill_diagonal(costs, np.inf)
    for _ in range(total - count):
        into, merged = sorted(divmod(int(costs.argmin()), total))
        weights = sizes[[into, merged]] / sizes[[into, merged]].sum()
        centroids[into] = weights @ centroids[[into, merged]]
        squares[into] = centroids[into] @ centroids[into]
        sizes[into] += sizes[merged]
        sizes[merged] = 0
        labels[labels == merged] = into
        distances = squares + squares[into] - 2 * (centroids @ centroids[into])
        row = sizes[into] * sizes / (sizes[into] + sizes) * distances
        row[sizes == 0] = row[into] = np.inf
        costs[into] = costs[:, into] = row
        costs[merged] = costs[:, merged] = np.inf
    return np.unique(labels, return_inverse=True)[1]
