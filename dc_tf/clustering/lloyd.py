"""One iteration of Lloyd over many workers: assign, exchange, divide, refill.

lloyd = Lloyd(points, k, comm, stats, assigner, seed, spherical=False, on_progress=None)
state = lloyd.first_state("random")
while state.iteration < 10:
    state = lloyd.iterate(state)
result = lloyd.finish(state)
"""

import dataclasses

import numpy as np

from dc_tf.clustering.initial import first_of_equals, initial_centroids
from dc_tf.clustering.search.parallel_chunks import in_parallel
from dc_tf.distributed import blocks
from dc_tf.errors import ConfigError, DataError
from dc_tf.kmeans_options import INITS

_CHUNK_BYTES = 2 << 20
# bfloat16 scores are finest at this share of the mean squared distance: a little above it, since
# positive scores are compared faster than negative ones.
_LEVEL = 17 / 16
# Halves of a split cluster are moved apart by this share of its radius. For small moves the two
# halves together always fit their rows better than the whole did.
_SPLIT = 1 / 256
# Squared radius of a cluster, as a share of its rows' squared distance from the origin, below
# which its rows are equal as far as float32 distances can tell.
_POINT_LIKE = 1e-6


@dataclasses.dataclass(frozen=True)
class KMeansResult:
    """Result of k-means; all but `assignments` are the same on every worker.

    Attributes:
        centroids: (k, dim) float32; float64 for float64 rows that float32 cannot tell apart. A
            never-assigned one is a copy of another.
        assignments: (rows,) int32, nearest centroid of each of this worker's rows.
        counts: (k,) int64 rows of each cluster, over all workers; 0 for an empty one.
        objective: sum of squared distances over all workers, before each iteration and, last, for
            `centroids` and `assignments`: `iterations + 1` values.
        iterations: done; fewer than asked for if `tolerance` ended them.
        reseeded: how many times an empty cluster was given half of a large one.
        exchanged_bytes: bytes that a worker put into the sums of the last iteration.
        backend: name of the search for the nearest centroids.
        precision: of its products on this worker.
    """

    centroids: np.ndarray
    assignments: np.ndarray
    counts: np.ndarray
    objective: list[float]
    iterations: int
    reseeded: int
    exchanged_bytes: int
    backend: str
    precision: str


@dataclasses.dataclass(frozen=True)
class KMeansState:
    """State between two iterations; the same on every worker, except `labels`.

    Attributes:
        iteration: iterations done.
        centroids: (k, dim) float32, of rows as they are compared (see `centring`).
        used: (k,) bool. An unused centroid gets no row until a cluster can be split for it.
        objective: one value for each iteration done.
        reseeded: as in `KMeansResult`.
        exchanged_bytes: as in `KMeansResult`.
        labels: (rows,) int32 of this worker's rows, from the last iteration; None before the
            first.
    """

    iteration: int
    centroids: np.ndarray
    used: np.ndarray
    objective: tuple[float, ...] = ()
    reseeded: int = 0
    exchanged_bytes: int = 0
    labels: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class _Pass:
    """Result of one pass over the rows.

    Attributes:
        counts: (k,) int64 rows of each cluster, over all workers.
        spread: (k,) float64 sum of squared distances of this worker's rows to their centroid.
        objective: the sum of all workers' spread.
    """

    counts: np.ndarray
    spread: np.ndarray
    objective: float


class Lloyd:
    """The iteration, on one worker.

    Args:
        points, k, comm, seed, spherical, on_progress: as in `kmeans`.
        stats: `RowStats` of the points.
        assigner: `Assigner` of the points.
    """

    def __init__(self, points, k, comm, stats, assigner, seed, spherical, on_progress):
        self._points = points
        self._k = k
        self._comm = blocks.Meter(comm)
        self._stats = stats
        self._assigner = assigner
        self._seed = seed
        self._spherical = spherical
        self._on_progress = on_progress
        self._row_bytes = 4 * points.dim
        assigner.begin(stats)

    def first_state(self, init) -> KMeansState:
        """The state before the first iteration, from `init` as of `KMeansOptions`.

        Raises:
            ConfigError: for another method or shape.
            DataError: for centroids that are not finite.
        """
        if isinstance(init, str):
            init = initial_centroids(
                init,
                self._points,
                self._k,
                self._comm.comm,
                self._stats,
                self._seed,
                lambda drawn: self._report(0, iteration=0, objective=None, drawn=drawn),
            )
        elif np.shape(init) != (self._k, self._points.dim):
            given = "None" if init is None else f"an array of shape {np.shape(init)}"
            raise ConfigError(
                f"init is {given}; use {', '.join(INITS)}, or centroids of shape "
                f"{(self._k, self._points.dim)}."
            )
        centroids = np.zeros((self._k, self._points.dim), np.float32)
        centroids[: len(init)] = init
        centroids[len(init) :] = centroids[0]
        if not np.isfinite(centroids).all():
            raise DataError("initial centroids are not finite.")
        used = np.zeros(self._k, bool)
        used[: len(init)] = first_of_equals(centroids[: len(init)])
        return KMeansState(0, self._on_sphere(centroids), used)

    def resumed(self, state) -> KMeansState:
        """A state of an earlier process, with its labels as those of the last pass."""
        if state.centroids.shape != (self._k, self._points.dim):
            raise ConfigError(
                f"state has {state.centroids.shape} centroids, not {(self._k, self._points.dim)}."
            )
        if state.labels is not None:
            self._assigner.restore(state.labels)
        return state

    def iterate(self, state: KMeansState) -> KMeansState:
        """The state after one more iteration."""
        before = self._comm.bytes
        done, centroids = self._assign(state)
        used, reseeded = self._refill(state, done, centroids)
        return KMeansState(
            iteration=state.iteration + 1,
            centroids=self._on_sphere(centroids),
            used=used,
            objective=(*state.objective, done.objective),
            reseeded=state.reseeded + reseeded,
            exchanged_bytes=self._comm.bytes - before,
            labels=self._assigner.labels,
        )

    def finish(self, state: KMeansState) -> KMeansResult:
        """The result, after a final assignment to the state's centroids."""
        done, _ = self._assign(state, means=False)
        centroids = state.centroids.copy()
        # Assigning rows to these centroids later must not find a nearer one than this did.
        if state.iteration:  # at first, an unused one is a copy of another
            centroids[~state.used] = centroids[np.argmax(state.used)]
        return KMeansResult(
            centroids=centroids,
            assignments=self._assigner.labels,
            counts=done.counts,
            objective=[*state.objective, done.objective],
            iterations=state.iteration,
            reseeded=state.reseeded,
            exchanged_bytes=state.exchanged_bytes,
            backend=self._assigner.backend,
            precision=self._assigner.precision,
        )

    def _assign(self, state, means=True):
        """Assigns all rows; returns a `_Pass` and the (k, dim) means, if asked for."""
        for rows in self._assigner.assign(state.centroids, state.used, self._level(state)):
            objective = state.objective[-1] if state.objective else None
            self._report(rows, iteration=state.iteration, objective=objective)
        counts = self._all_counts()
        spread = self._spread(state)
        centroids = self._means(state, counts) if means else None
        objective = float(self._comm.all_sum(np.float64(spread.sum())))
        return _Pass(counts, spread, objective), centroids

    def _report(self, rows, **progress):
        if self._on_progress:
            self._on_progress(rows, **progress)

    def _level(self, state):
        """About the squared distance of a row from its centroid."""
        total = self._stats.partition.total
        mean = state.objective[-1] / total if state.objective else self._stats.mean_norm
        return _LEVEL * mean

    def _all_counts(self):
        exact = np.int32 if self._stats.partition.total < 2**31 else np.int64
        counts = self._assigner.counts
        return self._comm.all_sum(counts.astype(exact)).numpy().astype(np.int64)

    def _spread(self, state):
        """(k,) float64 sum of squared distances of own rows to their centroid.

        It follows from sums and lengths: sum |x|^2 - 2 c . sum x + n |c|^2.
        """
        spread = self._assigner.squares.copy()
        own, shift = self._assigner.counts, self._stats.shift

        def add(rows):
            sums = np.asarray(self._assigner.sums[rows])
            spread[rows] += _spread_of(sums, state.centroids[rows], own[rows], shift)

        self._in_parallel(add, self._k)
        return np.maximum(spread, 0.0)

    def _means(self, state, counts):
        """(k, dim) float32 means of all workers' rows; an empty cluster keeps its centroid."""
        centroids = state.centroids.copy()
        sums = blocks.summed_blocks(self._k, self._row_bytes, self._own_sums, self._comm)
        for block, total in sums:
            filled = counts[block, None] > 0
            total /= np.maximum(counts[block, None], 1).astype(np.float32)
            np.copyto(centroids[block], total, where=filled)
        return self._on_sphere(centroids)

    def _own_sums(self, block):
        """Sums of own rows in some clusters, float32: half the bytes to exchange."""
        part = np.empty((block.stop - block.start, self._points.dim), np.float32)

        def copy(rows):
            these = slice(block.start + rows.start, block.start + rows.stop)
            part[rows] = np.asarray(self._assigner.sums[these])

        self._in_parallel(copy, len(part))
        return part

    def _in_parallel(self, work, count):
        """Calls `work` with slices that cover `count` clusters."""
        for _ in in_parallel(work, blocks.blocks(count, self._row_bytes, _CHUNK_BYTES)):
            pass

    def _on_sphere(self, centroids):
        if not self._spherical:
            return centroids
        length = np.sqrt(np.einsum("kd,kd->k", centroids, centroids, dtype=np.float64))
        return (centroids / np.where(length > 0, length, 1)[:, None]).astype(np.float32)

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
        # Clusters stay empty when no donor is left, and most donors are not needed.
        for receiver, donor in zip(empty, donors, strict=False):
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
        squared = spread - _squared_distance(centroids, state.centroids)
        origin = 0.0 if self._stats.shift is None else self._stats.shift
        scale = spread + _squared_distance(centroids, origin)
        splittable = (done.counts > 1) & (squared > _POINT_LIKE * scale)
        return np.sqrt(np.where(splittable, squared, 0.0))


def _squared_distance(a, b):
    """(k,) float64 squared distances of the rows of `a` (k, dim) to `b` or its rows."""
    difference = a - b
    return np.einsum("kd,kd->k", difference, difference, dtype=np.float64)


def _spread_of(sums, centroids, counts, shift):
    """(n,) float64 `n |c|^2 - 2 c . sum x`, of shifted centroids c and rows x."""
    c = centroids.astype(np.float64)
    if shift is not None:
        c -= shift
        sums = sums - counts[:, None] * shift.astype(np.float64)
    return counts * np.einsum("kd,kd->k", c, c) - 2.0 * np.einsum("kd,kd->k", c, sums)
