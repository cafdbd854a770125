"""Clusters inside clusters: k-means into m, then k-means into k inside each of the m.

The second level runs in place. Every worker keeps its own rows and takes part in all m problems,
so no row moves and an unbalanced first level leaves no worker idle; the result is that of m
separate problems on the gathered rows.

    cluster, sub, report = hierarchical_kmeans(store, clusters=4, sub_clusters=1000, comm=world)

Reference: Caron et al. 2019, section 3.
"""

from typing import NamedTuple

import numpy as np

from dc_tf.clustering.kmeans import kmeans
from dc_tf.clustering.nearest import MEMORY_BYTES
from dc_tf.clustering.points import Subset, as_points
from dc_tf.errors import ConfigError


class Hierarchy(NamedTuple):
    """Two labels for each of this worker's rows, and what the levels were like.

    Attributes:
        cluster: (rows,) int32 in [0, clusters).
        sub: (rows,) int32 in [0, max(1, sub_clusters)).
        report: JSON-ready and the same on every worker: `level1` (None if there is one cluster)
            and `level2` (a list with an entry for each cluster, empty if there are no
            sub-clusters), each with `rows`, `objective`, `reseeded`, `empty`, `exchanged_bytes`.
    """

    cluster: np.ndarray
    sub: np.ndarray
    report: dict


def hierarchical_kmeans(
    store,
    clusters,
    sub_clusters,
    comm,
    iterations=10,
    seed=0,
    memory_bytes=MEMORY_BYTES,
    on_progress=None,
) -> Hierarchy:
    """Clusters the rows of all workers at two levels.

    Args:
        store: this worker's rows, as in `kmeans`.
        clusters: m; 1 puts every row into cluster 0 without looking at it.
        sub_clusters: k in each cluster; 0 gives every row sub-cluster 0. In a cluster with fewer
            rows than k, or none, the surplus sub-clusters are empty.
        comm: `Communicator` of all workers.
        iterations: of Lloyd, at each level.
        seed: for the initial rows of each problem.
        memory_bytes: as in `kmeans`.
        on_progress: called with `(rows, level=, cluster=, iteration=, objective=)` after each
            chunk of own rows; there are `passes(...)` times the own rows to come.

    Raises:
        ConfigError: for impossible settings.
        DataError: on every worker, for rows that are not finite.
    """
    if clusters < 1 or sub_clusters < 0:
        raise ConfigError(
            f"clusters={clusters}, sub_clusters={sub_clusters}: at least 1 and 0 are needed."
        )
    points = as_points(store)
    cluster = np.zeros(points.rows, np.int32)
    sub = np.zeros(points.rows, np.int32)
    report = {"level1": None, "level2": []}

    def solve(rows, k, level, index):
        def progress(count, **figures):
            if on_progress:
                on_progress(count, level=level, cluster=index, **figures)

        seeds = np.random.SeedSequence((seed, level, index)).generate_state(1)
        return kmeans(
            rows, k, comm, iterations, int(seeds[0]), None, memory_bytes, on_progress=progress
        )

    if clusters > 1:
        result = solve(points, clusters, 1, 0)
        cluster[:] = result.assignments
        report["level1"] = _summary(result)
    for index in range(clusters if sub_clusters else 0):
        members = np.flatnonzero(cluster == index)
        result = solve(Subset(points, members), sub_clusters, 2, index)
        sub[members] = result.assignments
        report["level2"].append(_summary(result))
    return Hierarchy(cluster, sub, report)


def passes(clusters, sub_clusters, iterations) -> int:
    """How many times `hierarchical_kmeans` reads each row."""
    return ((clusters > 1) + (sub_clusters > 0)) * (iterations + 1)


def _summary(result):
    return {
        "rows": int(result.counts.sum()),
        "objective": result.objective,
        "reseeded": result.reseeded,
        "empty": int(np.count_nonzero(result.counts == 0)),
        "exchanged_bytes": result.exchanged_bytes,
    }
