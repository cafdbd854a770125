"""Rows that lie far from every centroid.

    farthest(clustering, statistics, 24)        # [(row, cluster, how many times the mean distance)]

A row is ranked by its distance to its centroid over the mean distance of its cluster's rows.
"""

import numpy as np


def farthest(clustering, statistics, count: int) -> list[tuple[int, int, float]]:
    """The rows that are farthest from their centroid, in one pass over all rows.

    Args:
        clustering: curation.clusters.Clustering with distances.
        statistics: (count, 2) of `clusters.distance_statistics`.
        count: at most so many rows.

    Returns:
        list of (row id, cluster, distance over the cluster's mean), the largest first.
    """
    kept = np.zeros((0, 3))
    for first, flat, distance in clustering.blocks():
        ratio = np.asarray(distance, np.float64) / np.maximum(statistics[flat, 0], 1e-12)
        top = np.argsort(-ratio, kind="stable")[:count]
        kept = np.concatenate([kept, np.stack([first + top, flat[top], ratio[top]], 1)])
        kept = kept[np.argsort(-kept[:, 2], kind="stable")][:count]
    return [(int(row), int(cluster), float(ratio)) for row, cluster, ratio in kept]
