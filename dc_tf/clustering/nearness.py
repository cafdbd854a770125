"""Distances of rows to their centroid and to the nearest other one.

    labels, distance, ratio = two_nearest(x, centroids, used)      # rows of a chunk, assigned anew
    distance, ratio = of_labels(x, labels, centroids, used)        # to the clusters they are in
    nearness = of_points(points, problems)                         # all rows of a worker

The ratio is the distance to the own centroid over that to the nearest other one: near 1 for a row
between two clusters, 0 where there is no other.
"""

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from dc_tf.clustering.search.tensors import exact_float32
from dc_tf.clustering.store.points import Subset, chunks

# Rows of a chunk, centroids of a tile, and scores of one by the other.
CHUNK_BYTES = 32 << 20
_TILE_BYTES, _SCORE_BYTES = 64 << 20, 64 << 20


def two_nearest(x, centroids, used) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest centroid of each row; equal scores go to the lower label.

    Args:
        x: (n, dim) float32.
        centroids: (k, dim), may be memory-mapped.
        used: (k,) bool; rows are assigned to these only.

    Returns:
        (n,) int64 labels, (n,) float32 Euclidean distances, (n,) float32 ratios.
    """
    labels, scores = _two_best(x, centroids, used)
    distance, ratio = _to_two(x, centroids, labels, np.isfinite(scores[:, 1]))
    return labels[:, 0], distance, ratio


def of_labels(x, labels, centroids, used) -> tuple[np.ndarray, np.ndarray]:
    """Distance and ratio of rows to the centroids that they were assigned to.

    Args:
        x, centroids, used: as in `two_nearest`.
        labels: (n,) integers in [0, k).

    Returns:
        (n,) float32 distances and ratios. A ratio above 1, of a row that another centroid is nearer
        to, is possible where products were computed in bfloat16.
    """
    best, scores = _two_best(x, centroids, used)
    is_first = best[:, 0] == labels
    other = np.where(is_first, best[:, 1], best[:, 0])
    has_other = np.isfinite(np.where(is_first, scores[:, 1], scores[:, 0]))
    return _to_two(x, centroids, np.stack([labels, other], 1), has_other)


@exact_float32()
def of_points(points, problems: Iterable) -> np.ndarray:
    """Distance and ratio of all rows of a worker to the clusters that they are in.

    Args:
        points: `points.Points`, the rows that were clustered.
        problems: (members, labels, centroids, used) of each k-means: (n,) positions of its rows,
            their labels, and as in `two_nearest`. Together they have every row at most once.

    Returns:
        (rows, 2) float32, distance and ratio; NaN for rows in no problem.
    """
    found = np.full((points.rows, 2), np.nan, np.float32)
    step = max(1, CHUNK_BYTES // (4 * points.dim))
    for members, labels, centroids, used in problems:
        for start, rows in chunks(Subset(points, members), step):
            part = slice(start, start + len(rows))
            x = np.asarray(rows).astype(np.float32)
            found[members[part]] = np.stack(of_labels(x, labels[part], centroids, used), 1)
    return found


def _two_best(x, centroids, used):
    """(n, 2) labels and scores of the two best; -inf for one that there is not."""
    scores = np.full((len(x), 2), -np.inf, np.float32)
    labels = np.zeros((len(x), 2), np.int64)
    tile = max(2, min(_TILE_BYTES // (4 * x.shape[1]), _SCORE_BYTES // (4 * max(1, len(x)))))
    for start in range(0, len(centroids), tile):
        part = slice(start, start + tile)
        found, places = _best_of_tile(x, np.asarray(centroids[part], np.float32), used[part])
        scores = np.concatenate([scores, found], 1)
        labels = np.concatenate([labels, start + places], 1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :2]
        scores, labels = (np.take_along_axis(a, order, 1) for a in (scores, labels))
    return labels, scores


def _best_of_tile(x, centroids, used):
    """Two largest scores `x.c - |c|^2 / 2` and their places, the lower of equal ones first."""
    offsets = np.where(used, np.einsum("kd,kd->k", centroids, centroids) / -2.0, -np.inf)
    scores = tf.matmul(x, centroids, transpose_b=True) + offsets.astype(np.float32)
    values, places = tf.math.top_k(scores, min(2, len(centroids)))
    return values.numpy(), places.numpy()


def _to_two(x, centroids, labels, has_second):
    """(n,) distances to the first of (n, 2) labels, and their ratios to those of the second."""
    first, second = (_distances(x, centroids, labels[:, place]) for place in (0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(second > 0, first / second, 1.0).astype(np.float32)
    ratio[~has_second] = 0.0
    return first, ratio


def _distances(x, centroids, labels):
    difference = x - np.asarray(centroids[labels], np.float32)
    return np.sqrt(np.einsum("nd,nd->n", difference, difference))
