"""Hierarchical k-means with resampling: clusters that are spread over the data more evenly than its
density.

    tree = hierarchical_kmeans(points, HierarchyOptions(clusters=(1000, 100, 10)))
    tree.labels, tree.parents, tree.distances

Plain k-means puts most centroids where most rows are. Here each clustering is repeated on a sample
that has equally many rows of every cluster, those nearest its centroid, so that dense regions weigh
less; each level clusters the centroids of the one below. Rows stay with the worker that owns them.

Reference: Vo et al. 2024, "Automatic Data Curation for Self-Supervised Learning: A Clustering-Based
Approach", section 3.
"""

import dataclasses

import numpy as np

from dc_tf.clustering.kmeans import kmeans
from dc_tf.clustering.store.points import Subset, as_points
from dc_tf.curation.tree.choose_rows import as_keys, distances_to, smallest_in_clusters
from dc_tf.curation.tree.tree import Tree
from dc_tf.distributed.blocks import gather_rows, row_block
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import ConfigError
from dc_tf.kmeans_options import KMeansOptions
from dc_tf.progress import IterationProgress

_KMEANS_PLUS_PLUS = 2000  # clusters; for more, k-means|| takes fewer passes over the rows


def hierarchical_kmeans(points, options, comm=None, store=None) -> Tree:
    """Clusters the rows of all workers on several levels.

    Args:
        points: this worker's rows, `clustering.store.points.Points` or an array.
        options: HierarchyOptions.
        comm: Communicator of the workers whose rows are clustered together; None is this one.
        store: `TreeStore`, keeps what a restart resumes from; None keeps nothing.

    Returns:
        Tree of this worker's rows; `parents` are the same on every worker.

    Raises:
        ConfigError: fewer rows than clusters.
        DataError: rows that are not finite.
        Preempted: the process was asked to stop.
    """
    points, comm = as_points(points), comm or Solo()
    rows = int(comm.all_sum(np.int64(points.rows)))
    if rows < options.clusters[0]:
        raise ConfigError(
            f"{options.clusters[0]} clusters need as many rows, and there are {rows}."
        )
    lowest = _Level(points, rows, options, 0, comm, store).run()
    distances = distances_to(points, lowest.labels, lowest.centroids)
    parents, below = [], lowest
    for number in range(1, len(options.clusters)):
        below, found = _cluster_centroids(below, options, number, comm, store)
        parents.append(found)
    return Tree(lowest.labels, tuple(parents), distances)


def _cluster_centroids(below, options, number, comm, store):
    """Clusters the centroids of the level below that have rows.

    Returns:
        `_Clusters` of the level, and (k,) int32 clusters of all centroids below, -1 without rows.
    """
    used = np.flatnonzero(below.counts)
    own = row_block(len(used), comm.rank, comm.size)
    points = as_points(below.centroids[used[own.start : own.stop]])
    found = _Level(points, len(used), options, number, comm, store).run()
    parents = np.full(len(below.counts), -1, np.int32)
    parents[used] = gather_rows(found.labels, own, len(used), comm)
    return found, parents


@dataclasses.dataclass(frozen=True)
class _Clusters:
    """A clustering: `centroids` (k, dim), `labels` of own rows, `counts` (k,) of all rows."""

    centroids: np.ndarray
    labels: np.ndarray
    counts: np.ndarray


class _Level:
    """The clusterings of one level, one after the other."""

    def __init__(self, points, rows, options, number, comm, store):
        self._points, self._rows, self._comm, self._store = points, rows, comm, store
        self._options = options
        self._number = number
        self._clusters = min(options.clusters[number], rows)

    def run(self):
        """The `_Clusters` after the last round."""
        done, centroids = self._resumed()
        if centroids is None:
            done, centroids = 0, self._round(0, self._points)
        found = self._assigned(centroids)
        for number in range(done + 1, self._options.rounds + 1):
            chosen = self._nearest(found)
            centroids = self._round(number, Subset(self._points, chosen))
            found = self._assigned(centroids)
        return found

    def _resumed(self):
        if self._store is None:
            return 0, None
        return self._store.newest(self._number, (self._clusters, self._points.dim), self._comm)

    def _round(self, number, points):
        """(k, dim) centroids of some rows."""
        state, save = None, None
        if self._store:
            shape = (self._clusters, points.dim)
            state, save = self._store.begin(self._number, number, shape, self._comm)
        seed = self._options.seed + 1000 * self._number + number
        init = "k-means++" if self._clusters <= _KMEANS_PLUS_PLUS else "k-means||"
        what = f"level {self._number + 1}, round {number}"
        found = self._kmeans(points, what, self._options.iterations, init, seed, save, state)
        if self._store:
            self._store.finish(self._number, number, found.centroids, self._comm)
        return found.centroids

    def _assigned(self, centroids):
        what = f"level {self._number + 1}, assign"
        found = self._kmeans(self._points, what, 0, centroids, self._options.seed)
        return _Clusters(found.centroids, found.labels, found.counts)

    def _kmeans(self, points, what, iterations, init, seed, save=None, state=None):
        rows = int(self._comm.all_sum(np.int64(points.rows)))
        shown = IterationProgress(iterations, rows, what, points.rows, enabled=self._comm.rank == 0)
        options = KMeansOptions(iterations=iterations, init=init, precision=self._options.precision)
        with shown as progress:
            found = kmeans(
                points,
                self._clusters,
                self._comm,
                seed,
                options,
                on_iteration=save,
                on_progress=progress.update,
                state=state,
            )
        return _Clusters(found.centroids, found.assignments, found.counts)

    def _nearest(self, found):
        """Positions of own rows that are among the nearest to their centroid."""
        sample = self._options.sample or max(2, self._rows // (2 * self._clusters))
        distances = distances_to(self._points, found.labels, found.centroids)
        quotas = np.minimum(found.counts, sample)
        return smallest_in_clusters(found.labels, as_keys(distances), quotas, self._comm)
