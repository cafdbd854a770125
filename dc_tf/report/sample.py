"""Which rows a report reads: all of a small data set, a bounded number of a large one.

    sample = choose(clustering, sizes, max_rows=100_000)
    nearest = least_of_each(clustering, clusters, 9, by_distance)       # {cluster: row ids}

Half of a bounded number is spread evenly over the data set, for statistics of all rows; the other
half is members of some clusters, for statistics of these. A pass holds one block of rows.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from dc_tf.data.inspection import spread_rows

MEMBERS = 50  # of a cluster that are read, where not all rows are
_EXTREMES = 100  # clusters among the largest, and among the smallest, that are always looked at


@dataclasses.dataclass(frozen=True)
class Sample:
    """Rows to read.

    Attributes:
        rows: (n,) int64 row ids, ascending.
        spread: (n,) bool, whether the row is of the evenly spread part.
        clusters: (c,) int64, clusters whose members are among them.
        whole: whether it is the whole data set.
    """

    rows: np.ndarray
    spread: np.ndarray
    clusters: np.ndarray
    whole: bool


def choose(clustering, sizes, max_rows: int, seed=0) -> Sample:
    """The rows to read of a Clustering.

    Args:
        clustering: clusters.open.Clustering.
        sizes: (count,) rows of each cluster.
        max_rows: largest number of rows.
    """
    total = clustering.dataset.rows
    filled = np.flatnonzero(sizes)
    if total <= max_rows:
        return Sample(np.arange(total), np.ones(total, bool), filled, whole=True)
    spread = spread_rows(clustering.dataset, max(1, max_rows // 2))
    clusters = _some(filled, sizes, max(1, max_rows // 2 // MEMBERS), seed)
    members = least_of_each(clustering, clusters, MEMBERS, at_random(seed))
    rows = np.unique(np.concatenate([spread, *members.values()]))
    return Sample(rows, np.isin(rows, spread), clusters, whole=False)


def spread_only(dataset, max_rows: int) -> Sample:
    """The rows to read of a data set without clusters."""
    rows = spread_rows(dataset, max_rows)
    none = np.zeros(0, np.int64)
    return Sample(rows, np.ones(len(rows), bool), none, len(rows) == dataset.rows)


def at_random(seed) -> Callable:
    """A key of `least_of_each` that draws members at random, the same for the same seed."""

    def keys(first, flat, distance):
        return np.random.default_rng([seed, first]).random(len(flat))

    return keys


def by_distance(first, flat, distance) -> np.ndarray:
    """A key of `least_of_each` that takes the members nearest to their centroid."""
    return distance


def least_of_each(clustering, clusters, count: int, keys) -> dict[int, np.ndarray]:
    """The members of each cluster with the least keys, in one pass over all rows.

    Args:
        clustering: clusters.open.Clustering.
        clusters: (c,) int64.
        count: at most so many of each.
        keys: function of a block (first row, (n,) clusters, (n,) distances) to (n,) numbers.

    Returns:
        {cluster: (at most count,) int64 row ids, the least key first}.
    """
    wanted = np.zeros(clustering.count, bool)
    wanted[clusters] = True
    kept = np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64)
    for first, flat, distance in clustering.blocks():
        inside = np.flatnonzero(wanted[flat])
        new = flat[inside], keys(first, flat, distance)[inside], first + inside
        kept = _least([np.concatenate(pair) for pair in zip(kept, new, strict=True)], count)
    found, starts = np.unique(kept[0], return_index=True)
    return dict(zip(found.tolist(), np.split(kept[2], starts[1:]), strict=False))


def _least(members, count):
    """The `count` members of each cluster with the least keys, sorted by cluster and key."""
    cluster, key, row = members
    order = np.lexsort([row, key, cluster])
    cluster, key, row = cluster[order], key[order], row[order]
    starts = np.searchsorted(cluster, cluster)
    keep = np.arange(len(cluster)) - starts < count
    return cluster[keep], key[keep], row[keep]


def _some(filled, sizes, count, seed):
    """At most `count` clusters: the largest, the smallest, and others at random."""
    if len(filled) <= count:
        return filled
    order = filled[np.argsort(-sizes[filled], kind="stable")]
    edge = min(_EXTREMES, count // 4)
    chosen = np.concatenate([order[:edge], order[len(order) - edge :]])
    rest = np.random.default_rng(seed).permutation(order[edge : len(order) - edge])
    return np.sort(np.concatenate([chosen, rest[: count - len(chosen)]]))
