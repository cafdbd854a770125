"""Lloyd k-means on rows that stay on the worker that owns them.

Per iteration the group exchanges one (k, d) sum, one (k,) count and a few numbers more, so the
traffic does not depend on the number of rows. All decisions are taken from exchanged numbers, by
every worker alike: initial rows are drawn by their position in rank order, so the same rows give
the same clusters on any number of workers, up to rounding. A group of one is plain k-means.

    result = kmeans(x, k=1000, comm=Solo())
    result.centroids, result.assignments
"""

import dataclasses

import numpy as np
import tensorflow as tf

from dc_tf.clustering import exchange
from dc_tf.clustering.initial import Layout, drawn_rows, first_of_equals
from dc_tf.clustering.nearest import MEMORY_BYTES, NearestCentroid
from dc_tf.clustering.points import as_points
from dc_tf.errors import ConfigError, DataError

# Halves of a split cluster are moved apart by this share of its radius. For small moves the two
# halves together always fit their rows better than the whole did.
_SPLIT = 1 / 256
# Squared radius of a cluster, as a share of its rows' squared distance from the mean centroid,
# below which its rows are equal as far as float32 distances can tell.
_POINT_LIKE = 1e-6


@dataclasses.dataclass(frozen=True)
class KMeansResult:
    """What k-means found; all but `assignments` are the same on every worker.

    Attributes:
        centroids: (k, dim) float32. One that no row has ever used repeats another one.
        assignments: (rows,) int32, nearest centroid of each of this worker's rows.
        counts: (k,) int64 rows of each cluster, over all workers; 0 for an empty one.
        objective: sum of squared distances over all workers, before each iteration and, last, for
            `centroids` and `assignments`: `iterations + 1` values.
        reseeded: how many times an empty cluster was given half of a large one.
        exchanged_bytes: bytes that a worker put into the sums of the last iteration.
    """

    centroids: np.ndarray
    assignments: np.ndarray
    counts: np.ndarray
    objective: list[float]
    reseeded: int
    exchanged_bytes: int


@dataclasses.dataclass(frozen=True)
class KMeansState:
    """Everything that an iteration leaves to the next, the same on every worker.

    Attributes:
        iteration: iterations done.
        centroids: (k, dim) float32.
        used: (k,) bool. A centroid that is not used waits for a cluster that can be split.
        objective: one value for each iteration done.
        reseeded: as in `KMeansResult`.
        exchanged_bytes: as in `KMeansResult`.
    """

    iteration: int
    centroids: np.ndarray
    used: np.ndarray
    objective: tuple[float, ...] = ()
    reseeded: int = 0
    exchanged_bytes: int = 0


def kmeans(
    points,
    k,
    comm,
    iterations=10,
    seed=0,
    init=None,
    memory_bytes=MEMORY_BYTES,
    on_iteration=None,
    on_progress=None,
    state=None,
) -> KMeansResult:
    """Clusters the rows of all workers: `iterations` of Lloyd and a final assignment.

    An empty cluster takes half of a large one: each its own donor, largest first. Rows that are
    all equal cannot be shared, so a cluster stays empty when no donor is left: with fewer distinct
    rows than k, or fewer rows than k, the surplus clusters have count 0. With no rows at all every
    cluster is empty and the centroids are 0.

    Besides rows in transit (`memory_bytes`), a worker holds about 24 * k * dim bytes.

    Args:
        points: this worker's rows: (n, dim) floating array, `FeatureStore` or other
            `points.Points`. n may be 0.
        k: number of clusters, at least 1.
        comm: `Communicator` of the workers whose rows are clustered together.
        iterations: at least 0.
        seed: draws the initial rows, and the directions in which clusters are split.
        init: (k, dim) array of initial centroids, the same on all workers; None draws distinct
            rows, uniformly.
        memory_bytes: bound for the temporaries of the assignment.
        on_iteration: called with the `KMeansState` after each iteration, on every worker.
        on_progress: called with `(rows, iteration=, objective=)` after each chunk of own rows.
        state: a `KMeansState` to go on from, in place of `init`.

    Raises:
        ConfigError: for impossible settings.
        DataError: on every worker, for rows that are not finite or differ in length.
    """
    if k < 1 or iterations < 0:
        raise ConfigError(f"k={k}, iterations={iterations}: k must be at least 1, iterations 0.")
    points = as_points(points)
    layout = Layout.agree(points, comm)
    if layout.total == 0:
        return _nothing(k, points.dim, iterations)
    state = state or _first_state(points, k, comm, layout, seed, init)
    if state.centroids.shape != (k, points.dim):
        raise ConfigError(f"state has {state.centroids.shape} centroids, not {(k, points.dim)}.")
    lloyd = _Lloyd(points, k, comm, layout, seed, memory_bytes, on_progress)
    while state.iteration < iterations:
        state = lloyd.iterate(state)
        if on_iteration:
            on_iteration(state)
    return lloyd.finish(state)


def _nothing(k, dim, iterations):
    return KMeansResult(
        centroids=np.zeros((k, dim), np.float32),
        assignments=np.zeros(0, np.int32),
        counts=np.zeros(k, np.int64),
        objective=[0.0] * (iterations + 1),
        reseeded=0,
        exchanged_bytes=0,
    )


def _first_state(points, k, comm, layout, seed, init):
    if init is None:
        init = drawn_rows(points, min(k, layout.total), comm, layout, seed)
    elif np.shape(init) != (k, points.dim):
        raise ConfigError(f"init has shape {np.shape(init)}; it needs to be {(k, points.dim)}.")
    centroids = np.zeros((k, points.dim), np.float32)
    centroids[: len(init)] = init
    if not np.isfinite(centroids).all():
        raise DataError("initial centroids are not finite.")
    used = np.zeros(k, bool)
    used[: len(init)] = first_of_equals(centroids[: len(init)])
    return KMeansState(0, centroids, used)


@dataclasses.dataclass(frozen=True)
class _Pass:
    """Results of one pass over the rows: this worker's labels and spread, the world's counts.

    Attributes:
        labels: (rows,) int32.
        spread: (k,) float64 sum of squared distances of this worker's rows to their centroid.
        counts: (k,) int64.
        objective: float.
    """

    labels: np.ndarray
    spread: np.ndarray
    counts: np.ndarray
    objective: float


class _Lloyd:
    """The iteration: assign, sum, exchange, divide, refill."""

    def __init__(self, points, k, comm, layout, seed, memory_bytes, on_progress):
        self._points = points
        self._k = k
        self._comm = exchange.Meter(comm)
        self._layout = layout
        self._seed = seed
        self._nearest = NearestCentroid(k, points.dim, memory_bytes)
        self._on_progress = on_progress

    def iterate(self, state: KMeansState) -> KMeansState:
        before = self._comm.bytes
        sums = tf.Variable(tf.zeros((self._k, self._points.dim), tf.float64), trainable=False)
        done = self._assign(state, sums)
        centroids = self._means(state, sums, done.counts)
        used, reseeded = self._refill(state, done, centroids)
        return KMeansState(
            iteration=state.iteration + 1,
            centroids=centroids,
            used=used,
            objective=(*state.objective, done.objective),
            reseeded=state.reseeded + reseeded,
            exchanged_bytes=self._comm.bytes - before,
        )

    def finish(self, state: KMeansState) -> KMeansResult:
        done = self._assign(state)
        centroids = state.centroids.copy()
        # Whoever assigns rows to these centroids must find nothing nearer than we did.
        centroids[~state.used] = centroids[np.argmax(state.used)]
        return KMeansResult(
            centroids=centroids,
            assignments=done.labels,
            counts=done.counts,
            objective=[*state.objective, done.objective],
            reseeded=state.reseeded,
            exchanged_bytes=state.exchanged_bytes,
        )

    def _assign(self, state, sums=None) -> _Pass:
        """Assigns all rows; adds them to their cluster's row of `sums`, if given."""
        labels = np.empty(self._points.rows, np.int32)
        counts = np.zeros(self._k, np.int64)
        spread = np.zeros(self._k, np.float64)
        bad_row = None
        self._nearest.load(state.centroids, state.used)
        for start, rows in self._points.chunks(self._nearest.chunk_rows):
            rows = tf.convert_to_tensor(rows)
            near, distances = self._nearest(rows)
            bad = np.flatnonzero(~np.isfinite(distances))
            if bad.size:
                # The others are told with the counts; raising now would leave them waiting.
                bad_row = self._layout.first + start + int(bad[0])
                break
            if sums is not None:
                _add_rows(sums, near, rows)
            near = near.numpy()
            labels[start : start + len(near)] = near
            counts += np.bincount(near, minlength=self._k)
            spread += np.bincount(near, weights=distances.numpy(), minlength=self._k)
            self._report(len(near), state)
        counts, objective = self._exchange(counts, spread.sum(), bad_row)
        return _Pass(labels, spread, counts, objective)

    def _report(self, rows, state):
        if self._on_progress:
            objective = state.objective[-1] if state.objective else None
            self._on_progress(rows, iteration=state.iteration, objective=objective)

    def _exchange(self, counts, objective, bad_row):
        """(k,) counts and the objective of the world; DataError if any worker has a bad row."""
        bad_rows = np.zeros(self._comm.size)
        bad_rows[self._comm.rank] = 0 if bad_row is None else bad_row + 1
        numbers = self._comm.all_sum(np.append(bad_rows, objective)).numpy()
        if numbers[:-1].any():
            bad = int(numbers[np.flatnonzero(numbers)[0]]) - 1
            raise DataError(f"row {bad} is not finite, or too large to be squared in float32.")
        exact = np.int32 if self._layout.total < 2**31 else np.int64
        counts = self._comm.all_sum(counts.astype(exact)).numpy().astype(np.int64)
        return counts, float(numbers[-1])

    def _means(self, state, sums, counts):
        """(k, dim) float32 means of the world's rows; an empty cluster keeps its centroid."""
        centroids = state.centroids.copy()
        # Summed in float64 here and exchanged in float32: half the bytes, and the centroids
        # are float32 as well.
        blocks = exchange.summed_blocks(
            self._k,
            4 * self._points.dim,
            lambda block: tf.cast(sums[block], tf.float32),
            self._comm,
        )
        for block, total in blocks:
            filled = np.flatnonzero(counts[block])
            centroids[block.start + filled] = total[filled] / counts[block][filled, None]
        return centroids

    def _refill(self, state, done, centroids):
        """Gives empty clusters halves of large ones, changing `centroids` in place.

        Returns:
            (k,) bool array of the centroids in use, and how many were refilled.
        """
        used = done.counts > 0
        empty = np.flatnonzero(~used)
        if not empty.size:
            return used, 0
        radius = self._radius(state, done, centroids)
        largest_first = np.argsort(-done.counts, kind="stable")
        donors = largest_first[radius[largest_first] > 0]
        for receiver, donor in zip(empty, donors):
            direction = np.random.default_rng((self._seed, state.iteration, donor))
            signs = direction.integers(0, 2, self._points.dim) * 2.0 - 1.0
            move = _SPLIT * radius[donor] / np.sqrt(self._points.dim) * signs
            centroids[receiver] = centroids[donor] - move
            centroids[donor] += move
            used[receiver] = True
        return used, min(len(empty), len(donors))

    def _radius(self, state, done, centroids):
        """(k,) root mean squared distance of rows to their mean; 0 where there is no spread."""
        count = np.maximum(done.counts, 1)
        spread = self._comm.all_sum(done.spread).numpy() / count
        moved = _squared_distance(centroids, state.centroids)
        squared = spread - moved
        scale = spread + _squared_distance(centroids, self._nearest.shift)
        splittable = (done.counts > 1) & (squared > _POINT_LIKE * scale)
        return np.sqrt(np.where(splittable, squared, 0.0))


def _squared_distance(a, b):
    """(k,) float64 squared distances of the rows of `a` (k, dim) to `b` or its rows."""
    difference = a - b
    return np.einsum("kd,kd->k", difference, difference, dtype=np.float64)


@tf.function(reduce_retracing=True)
def _add_rows(sums, labels, rows):
    """Adds each row to the row `labels` of `sums`, in float64."""
    sums.scatter_add(tf.IndexedSlices(tf.cast(rows, tf.float64), labels))
