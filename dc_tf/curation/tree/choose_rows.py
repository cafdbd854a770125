"""Chooses a number of rows from each cluster: those with the smallest keys, over all workers.

    positions = smallest_in_clusters(labels, as_keys(distances), quotas, comm)   # nearest ones
    positions = smallest_in_clusters(labels, random_keys(row_ids, seed), quotas, comm)

Each worker has some rows and learns which of its own are chosen. What is exchanged depends on the
number of clusters only: the workers find the largest chosen key of every cluster by bisection.
"""

import numpy as np

from dc_tf.clustering.store.points import chunks
from dc_tf.distributed.blocks import all_sum_array
from dc_tf.distributed.collectives import Solo, all_gather

_CHUNK_BYTES = 64 << 20
_BITS = 32


def smallest_in_clusters(labels, keys, quotas, comm=None) -> np.ndarray:
    """The rows with the smallest keys of each cluster; of equal keys the first rows.

    Args:
        labels: (n,) int32 clusters of this worker's rows; rows with a negative label are not
            chosen.
        keys: (n,) uint32 of these rows.
        quotas: (k,) int64 rows to choose from each cluster of all workers, at most as many as
            there are.
        comm: Communicator; rows of lower ranks come first. None is this worker alone.

    Returns:
        (m,) int64 positions of this worker's chosen rows, ascending.
    """
    comm = comm or Solo()
    ordered = _Ordered(labels, keys, len(quotas))
    # The largest bound below which no cluster has more rows than its quota.
    bound = np.zeros(len(quotas), np.uint64)
    for bit in reversed(range(_BITS + 1)):
        trial = bound + np.uint64(1 << bit)
        counts = all_sum_array(ordered.count_below(trial), comm)
        bound = np.where(counts <= quotas, trial, bound)
    below = ordered.count_below(bound)
    missing = quotas - all_sum_array(below, comm)
    ties = all_gather(ordered.count_below(bound + np.uint64(1)) - below, comm)
    earlier = ties[: comm.rank].sum(0)
    return ordered.first(below + np.clip(missing - earlier, 0, ties[comm.rank]))


def as_keys(distances) -> np.ndarray:
    """(n,) uint32 in the order of non-negative float32 numbers."""
    return np.ascontiguousarray(np.maximum(distances, 0), np.float32).view(np.uint32)


def random_keys(row_ids, seed) -> np.ndarray:
    """(n,) uint32 that look random and depend on row id and seed only (splitmix64)."""
    offset = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    x = (np.asarray(row_ids, np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + offset
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x >> np.uint64(32)).astype(np.uint32)


def distances_to(points, labels, centroids, on_rows=None) -> np.ndarray:
    """(n,) float32 distance of each row to the centroid of its cluster.

    Args:
        points: clustering.store.points.Points of n rows.
        labels: (n,) int32 in [0, k), or -1 for a row without a cluster, whose distance is 0.
        centroids: (k, dim) float32.
        on_rows: called with the number of rows of each chunk.
    """
    found = np.zeros(points.rows, np.float32)
    for start, rows in chunks(points, max(1, _CHUNK_BYTES // (8 * points.dim))):
        own = labels[start : start + len(rows)]
        difference = rows.astype(np.float32) - centroids[own]
        squares = np.einsum("nd,nd->n", difference, difference)
        found[start : start + len(rows)] = np.where(own >= 0, np.sqrt(squares), 0)
        if on_rows:
            on_rows(len(rows))
    return found


class _Ordered:
    """Rows in the order of cluster, key and position."""

    def __init__(self, labels, keys, clusters):
        rows = np.flatnonzero(labels >= 0)
        joined = labels[rows].astype(np.uint64) << np.uint64(_BITS)
        joined |= keys[rows].astype(np.uint64)
        order = np.argsort(joined, kind="stable")
        self._rows, self._joined = rows[order], joined[order]
        self._clusters = np.arange(clusters, dtype=np.uint64) << np.uint64(_BITS)
        self._starts = np.searchsorted(self._joined, self._clusters)

    def count_below(self, bounds) -> np.ndarray:
        """(k,) int64 rows of each cluster with a key below its bound, (k,) uint64."""
        bounds = np.minimum(bounds, np.uint64(1 << _BITS))  # the next cluster begins there
        return np.searchsorted(self._joined, self._clusters + bounds) - self._starts

    def first(self, counts) -> np.ndarray:
        """(m,) int64 positions of the first rows of each cluster, ascending."""
        starts = np.repeat(self._starts, counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.sort(self._rows[starts + within])
