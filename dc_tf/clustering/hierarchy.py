"""Clusters inside clusters: k-means into m, then k-means into k inside each of the m.

The second level runs in place. Every worker keeps its own rows and takes part in all m problems,
so no row moves and an unbalanced first level leaves no worker idle; the result is that of m
separate problems on the gathered rows.

    cluster, sub, counts, report = hierarchical_kmeans(store, 4, 1000, comm=world)

With `snapshots`, a repeated call resumes an interrupted one between two iterations.

Reference: Caron et al. 2019, section 3.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from dc_tf.clustering.initial import mean_centroids
from dc_tf.clustering.kmeans import kmeans
from dc_tf.clustering.resume import Snapshot, pack_state, unpack_state
from dc_tf.clustering.row_partition import RowPartition, rows_at
from dc_tf.clustering.store.points import Subset, as_points
from dc_tf.distributed import blocks
from dc_tf.errors import ConfigError
from dc_tf.kmeans_options import PREVIOUS, KMeansOptions


class Hierarchy(NamedTuple):
    """Labels of this worker's rows at both levels, and a report of each k-means.

    Attributes:
        cluster: (rows,) int32 in [0, clusters).
        sub: (rows,) int32 in [0, max(1, sub_clusters)).
        counts: (clusters, max(1, sub_clusters)) int64 rows of each sub-cluster, over all workers.
        further: (rows, clusterings - 1) int32 labels like `sub`, of clusterings after the first.
        further_counts: ((clusterings - 1) * clusters, max(1, sub_clusters)) int64, one clustering
            after the other.
        report: JSON-ready and the same on every worker: `level1` (None if there is one cluster)
            and `level2` (a list with an entry for each cluster of each clustering, empty if there
            are no sub-clusters), each with `rows`, `objective`, `iterations`, `reseeded`, `empty`,
            `exchanged_bytes`, `backend`.
    """

    cluster: np.ndarray
    sub: np.ndarray
    counts: np.ndarray
    report: dict
    further: np.ndarray
    further_counts: np.ndarray


def hierarchical_kmeans(
    store,
    clusters,
    sub_clusters,
    comm,
    seed=0,
    options=None,
    previous=None,
    snapshots=None,
    on_progress=None,
    on_centroids=None,
    clusterings=1,
    **changes,
) -> Hierarchy:
    """Clusters the rows of all workers at two levels.

    Args:
        store: this worker's rows, as in `kmeans`.
        clusters: m; 1 assigns every row to cluster 0 without reading it.
        sub_clusters: k in each cluster; 0 gives every row sub-cluster 0. In a cluster with fewer
            rows than k, or none, the surplus sub-clusters are empty.
        comm: `Communicator` of all workers.
        seed: for the initial rows of each problem.
        options: KMeansOptions of each problem; None takes its defaults. Here `init` may also be
            "previous": the means of the rows by their `previous` labels; at the second level, of
            those that stayed in their cluster.
        previous: (cluster, sub) labels of this worker's rows, (rows,) int32 each, or with several
            clusterings `sub` (rows, clusterings); without them (on all workers), "previous" is
            "random".
        snapshots: `resume.Snapshots` of this clustering; what they hold is not computed again, and
            the result is the same.
        on_progress: called with `(rows, level=, skipped=, cluster=, iteration=, objective=)` after
            each chunk of own rows (0 rows, and `drawn=`, while `init` draws), or with `(rows,
            level=, skipped=True, cluster=)` for what need not be done, with `iteration=` where it
            was done before. Each level adds up to `iterations + 1` times the own rows.
        on_centroids: called on every worker with `(level, index, centroids)`, (k, dim) float32,
            when a problem is solved, before a snapshot of its solution. At level 2, `index` is
            that of the cluster plus `clusters` times that of the clustering.
        clusterings: of the second level, from different initial rows; the first is the only one of
            a call with 1.
        **changes: single options, in place of those of `options`.

    Raises:
        ConfigError: for impossible settings.
        DataError: on every worker, for rows that are not finite.
    """
    if clusters < 1 or sub_clusters < 0:
        raise ConfigError(
            f"clusters={clusters}, sub_clusters={sub_clusters}; use at least 1 and 0."
        )
    options = dataclasses.replace(options or KMeansOptions(), **changes)
    work = _Work(as_points(store), clusters, sub_clusters, snapshots, clusterings)
    solver = _Solver(work, comm, seed, options, previous, on_progress)
    state = work.restore()
    for problem in work.problems[: work.done]:
        solver.skip(problem, options.iterations + 1)
    for problem in work.problems[work.done :]:
        result = solver.solve(problem, state)
        if on_centroids:
            on_centroids(problem.level, problem.index, result.centroids)
        work.record(problem, result)
        state = None
    return work.result(comm)


@dataclasses.dataclass(frozen=True)
class _Problem:
    """One call of `kmeans`: k clusters among the rows of one cluster of the level above.

    Attributes:
        index: at level 2, the cluster plus the number of clusters times the clustering.
    """

    level: int
    index: int
    k: int


class _Work:
    """Progress through the problems; all of it can be saved.

    Attributes:
        points: this worker's rows.
        problems: list of `_Problem`, in order; the first `done` are solved.
        cluster: (rows,) int32 labels, of the solved problems.
        sub: (clusterings, rows) int32, the same of the second level.
    """

    def __init__(self, points, clusters, sub_clusters, snapshots, clusterings=1):
        self.points = points
        self.problems = [_Problem(1, 0, clusters)] if clusters > 1 else []
        if sub_clusters:
            self.problems += [
                _Problem(2, index, sub_clusters) for index in range(clusters * clusterings)
            ]
        self.done = 0
        self.cluster = np.zeros(points.rows, np.int32)
        self.sub = np.zeros((clusterings, points.rows), np.int32)
        self._report = {"level1": None, "level2": []}
        self._shape = (clusters, max(1, sub_clusters))
        self._snapshots = snapshots
        self._generation = 0

    def members(self, problem):
        """(n,) int64 positions of this worker's rows in a problem."""
        if problem.level == 1:
            return np.arange(self.points.rows)
        return np.flatnonzero(self.cluster == self.place(problem)[1])

    def place(self, problem):
        """(clustering, cluster) of a problem of the second level."""
        return divmod(problem.index, self._shape[0])

    def record(self, problem, result):
        """Stores the result of a problem."""
        if problem.level == 1:
            self.cluster[:] = result.assignments
            self._report["level1"] = _summary(result)
        else:
            clustering, _ = self.place(problem)
            self.sub[clustering, self.members(problem)] = result.assignments
            self._report["level2"].append(_summary(result))
        self.done += 1
        self.save()

    def save(self, state=None):
        """Saves the progress if a save is due; `state` is that of the current problem, or None."""
        if not self._snapshots:
            return
        self._generation += 1
        if self.done == len(self.problems):
            # Always after the last problem: what follows is not clustering, and can fail as well.
            self._snapshots.save(self._generation, self._snapshot(None))
        else:
            self._snapshots.save_if_due(self._generation, lambda: self._snapshot(state))

    def restore(self):
        """Restores the newest snapshot; the `KMeansState` of the current problem, or None."""
        snapshot = self._snapshots.newest() if self._snapshots else None
        if snapshot is None:
            return None
        arrays = dict(snapshot.arrays)
        self.cluster, self.sub = arrays.pop("cluster"), arrays.pop("sub")
        self.done = snapshot.about["done"]
        self._report = snapshot.about["report"]
        self._generation = snapshot.about["generation"]
        state = snapshot.about["state"]
        return unpack_state(Snapshot(state, arrays)) if state else None

    def result(self, comm) -> Hierarchy:
        clusters, sub_clusters = self._shape
        flat = self.cluster.astype(np.int64) * sub_clusters + self.sub
        counts = np.stack([np.bincount(each, minlength=clusters * sub_clusters) for each in flat])
        counts = blocks.all_sum_array(counts.ravel(), comm).reshape(-1, sub_clusters)
        return Hierarchy(
            self.cluster,
            self.sub[0],
            counts[:clusters],
            self._report,
            further=np.ascontiguousarray(self.sub[1:].T),
            further_counts=counts[clusters:],
        )

    def _snapshot(self, state):
        in_progress = pack_state(state) if state else Snapshot(None, {})
        about = {
            "done": self.done,
            "report": self._report,
            "generation": self._generation,
            "state": in_progress.about,
        }
        labels = {"cluster": self.cluster, "sub": self.sub}
        return Snapshot(about, labels | in_progress.arrays)


class _Solver:
    """Solves the problems one by one, with the same options."""

    def __init__(self, work, comm, seed, options, previous, on_progress):
        self._work = work
        self._comm = comm
        self._seed = seed
        self._options = options
        self._previous = previous
        self._on_progress = on_progress

    def solve(self, problem, state=None):
        """`KMeansResult` of a problem, from its beginning or from a `KMeansState`."""
        rows = self._rows(problem)
        if state:
            self.skip(problem, state.iteration, iteration=state.iteration)
        seeds = np.random.SeedSequence((self._seed, problem.level, problem.index))
        seed = int(seeds.generate_state(1)[0])
        result = kmeans(
            rows,
            problem.k,
            self._comm,
            seed,
            self._options,
            init="random" if state else self._start(problem, rows, seed),
            state=state,
            on_iteration=self._work.save,
            on_progress=lambda count, **values: self._progress(count, problem, values),
        )
        self.skip(problem, self._options.iterations - result.iterations)
        return result

    def skip(self, problem, passes, **values):
        """Reports passes over a problem's rows that are skipped."""
        count = passes * len(self._work.members(problem))
        if self._on_progress and count:
            values |= {"level": problem.level, "cluster": problem.index}
            self._on_progress(count, skipped=True, **values)

    def _rows(self, problem):
        points, members = self._work.points, self._work.members(problem)
        # All of them are read faster in order than by position.
        return points if len(members) == points.rows else Subset(points, members)

    def _start(self, problem, rows, seed):
        """The `init` of a problem's `kmeans`."""
        if self._options.init != PREVIOUS:
            return self._options.init
        labels = self._previous_labels(problem)
        if labels is None:
            return "random"
        # A cluster that kept no row starts from a random one.
        default = _random_rows(rows, problem.k, self._comm, seed)
        return mean_centroids(rows, labels, problem.k, self._comm, default)

    def _previous_labels(self, problem):
        """(n,) int32 label of each row of a problem in the last round, -1 where it had none."""
        if self._previous is None:
            return None
        cluster, sub = self._previous
        if problem.level == 1:
            return cluster
        members = self._work.members(problem)
        clustering, index = self._work.place(problem)
        sub = sub.reshape(len(sub), -1)[members, clustering]
        return np.where(cluster[members] == index, sub, -1).astype(np.int32)

    def _progress(self, count, problem, values):
        if self._on_progress:
            values |= {"level": problem.level, "cluster": problem.index}
            self._on_progress(count, skipped=False, **values)


def _random_rows(points, k, comm, seed):
    """(k, dim) float32 rows of any worker; they repeat where there are fewer than k."""
    partition = RowPartition.agree(points, comm)
    if not partition.total:
        return np.zeros((k, points.dim), np.float32)
    count = min(k, partition.total)
    drawn = np.random.default_rng(seed).choice(partition.total, count, replace=False)
    return np.resize(rows_at(drawn, points, comm, partition), (k, points.dim))


def _summary(result):
    return {
        "rows": int(result.counts.sum()),
        "objective": list(result.objective),
        "iterations": result.iterations,
        "reseeded": result.reseeded,
        "empty": int(np.count_nonzero(result.counts == 0)),
        "exchanged_bytes": result.exchanged_bytes,
        "backend": result.backend,
    }
