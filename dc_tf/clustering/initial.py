"""Initial centroids of k-means, the same on any number of workers.

    centroids = initial_centroids("k-means++", points, k, comm, stats, seed)

"random" draws distinct rows, as in the paper. "k-means++" draws rows one by one with probability
proportional to the squared distance D^2 from the rows already drawn (Arthur and Vassilvitskii
2007): k passes over the rows, for small k. "k-means||" draws k / 2 rows in each of five passes,
then k of these by k-means++, each weighted by the number of rows nearest to it (Bahmani et al.
2012): for large k.

Sampling uses exponential races: each row draws an exponential time from a hash of its position and
divides it by its weight; the smallest times win. The drawn rows therefore do not depend on an
order of summation, and a worker sends only its own smallest times.
"""

import hashlib

import numpy as np

from dc_tf.clustering.row_partition import rows_at
from dc_tf.clustering.row_stats import RowStats
from dc_tf.clustering.search.backends import make_backend
from dc_tf.clustering.search.parallel_chunks import in_parallel
from dc_tf.clustering.store.points import as_points, chunks
from dc_tf.distributed import blocks
from dc_tf.distributed.collectives import Solo, all_gather
from dc_tf.errors import ConfigError
from dc_tf.kmeans_options import INITS

_ROUNDS = 5
_OVERSAMPLING = 0.5
# The most draws that reduce the candidates of k-means|| to k.
_STEPS = 1000
# Squared distance, as a share of the squared length, that float32 cannot tell from 0.
_EQUAL = 1e-6
_CHUNK_BYTES = 16 << 20


def initial_centroids(method, points, k, comm, stats, seed, on_drawn=None) -> np.ndarray:
    """(n, dim) float32 rows to start from, n = min(k, rows of all workers) or fewer.

    They are fewer when fewer rows are distinct and the method looks at distances.

    Args:
        method: one of `kmeans_options.INITS`.
        points: this worker's rows.
        k: number of clusters.
        comm: `Communicator` of the workers.
        stats: `RowStats` of the rows.
        seed: of the draws.
        on_drawn: called with the number of rows drawn so far, where they are drawn one after the
            other.

    Raises:
        ConfigError: for another method.
    """
    if method not in INITS:
        raise ConfigError(f"init is {method!r}; use {', '.join(INITS)}, or a (k, dim) array.")
    count = min(k, stats.partition.total)
    if method == "random":
        drawn = np.random.default_rng(seed).choice(stats.partition.total, count, replace=False)
        return rows_at(drawn, points, comm, stats.partition)
    draws = _Draws(points, comm, stats, seed, on_drawn=on_drawn)
    if method == "k-means++":
        draws.add_until(count, at_once=1)
        return draws.drawn
    draws.add(1)
    for _ in range(_ROUNDS):
        draws.add(max(1, round(_OVERSAMPLING * count)))
    return _reduced(draws.drawn, draws.followers(), count, seed)


def _reduced(candidates, weights, count, seed):
    """(n, dim) rows of the candidates, n <= count; every worker does the same."""
    if len(candidates) <= count:
        return candidates
    points = as_points(candidates)
    stats = RowStats.make(points, Solo(), seed)
    draws = _Draws(points, Solo(), stats, seed, weights)
    draws.add_until(count, at_once=-(-count // _STEPS))
    return draws.drawn


class _Draws:
    """Rows drawn so far, with every row's squared distance from the nearest of them.

    Args:
        points, comm, stats, seed, on_drawn: as in `initial_centroids`.
        weights: (rows,) of this worker's rows; None is 1.

    Attributes:
        drawn: (n, dim) float32, the same on every worker.
    """

    def __init__(self, points, comm, stats, seed, weights=None, on_drawn=None):
        self._on_drawn = on_drawn
        self._points = points
        self._comm = comm
        self._stats = stats
        self._weights = np.ones(points.rows) if weights is None else weights.astype(np.float64)
        self._random = _Exponential(seed, stats.partition.first, points.rows)
        self._distance = np.ones(points.rows)  # the first draw is by weight alone
        self._nearest = np.zeros(points.rows, np.int64)
        self.drawn = np.empty((0, points.dim), np.float32)

    def add_until(self, count, at_once):
        """Draws until there are `count`, or all rows equal one that is drawn."""
        while len(self.drawn) < count and self.add(min(at_once, count - len(self.drawn))):
            pass

    def add(self, count) -> int:
        """Draws up to `count` rows more; returns how many it drew."""
        positions = self._earliest(count)
        if positions.size:
            new = rows_at(positions, self._points, self._comm, self._stats.partition)
            self._approach(new, positions)
            self.drawn = np.concatenate([self.drawn, new])
            if self._on_drawn:
                self._on_drawn(len(self.drawn))
        return len(positions)

    def followers(self) -> np.ndarray:
        """(n,) int64: rows of all workers for which each drawn row is the nearest."""
        return self._comm.all_sum(np.bincount(self._nearest, minlength=len(self.drawn))).numpy()

    def _earliest(self, count):
        """(n,) int64 positions of the up to `count` winners among the rows of all workers."""
        weight = self._weights * self._distance
        with np.errstate(divide="ignore"):
            times = self._random.draw() / weight
        mine = np.argpartition(times, count - 1)[:count] if count < len(times) else slice(None)
        own = np.full((2, count), np.inf)
        found = times[mine]
        own[0, : len(found)] = found
        own[1, : len(found)] = self._stats.partition.first + np.arange(len(times))[mine]
        times, positions = _gathered(own, self._comm)
        order = np.lexsort((positions, times))[:count]
        return positions[order][np.isfinite(times[order])].astype(np.int64)

    def _approach(self, new, positions):
        """Updates every row's nearest drawn row and its distance with `new` (n, dim) rows."""
        if not len(self.drawn):
            self._distance[:] = np.inf
        nearest = make_backend("tensorflow", len(new), self._points.dim, "float32")
        nearest.load(new, shift=self._stats.shift)

        def approach(start):
            part = slice(start, min(start + nearest.chunk_rows, self._points.rows))
            x = nearest.prepared(self._points.read(part.start, part.stop))
            label, score = nearest(x)
            norms = self._stats.norms[part]
            distance = norms - 2.0 * score
            distance[distance < _EQUAL * norms] = 0.0
            nearer = distance < self._distance[part]
            self._distance[part][nearer] = distance[nearer]
            self._nearest[part][nearer] = len(self.drawn) + label[nearer]

        for _ in in_parallel(approach, range(0, self._points.rows, nearest.chunk_rows)):
            pass
        local = positions - self._stats.partition.first
        self._distance[local[(0 <= local) & (local < self._points.rows)]] = 0.0


class _Exponential:
    """Exponential times for rows by their position, new ones at each draw."""

    def __init__(self, seed, first, rows):
        self._words = np.arange(first, first + rows, dtype=np.uint64)
        self._seeds = np.random.SeedSequence(seed)

    def draw(self) -> np.ndarray:
        """(rows,) float64, positive."""
        salt = self._seeds.spawn(1)[0].generate_state(1, np.uint64)[0]
        bits = _mixed(_mixed(self._words + salt) ^ salt)
        return -np.log(((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)


def _mixed(words):
    """The finaliser of splitmix64 (Steele et al. 2014) on uint64."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _gathered(own, comm):
    """(rows, size * n): every worker's (rows, n) float64, which may be infinite."""
    if comm.size == 1:
        return own
    return np.moveaxis(all_gather(own, comm), 0, 1).reshape(len(own), -1)


def mean_centroids(points, labels, k, comm, default) -> np.ndarray:
    """(k, dim) float32 means of the rows of each label, over all workers.

    A warm start where the rows have changed since they were clustered: the last round's clusters
    in this round's features.

    Args:
        points: this worker's rows.
        labels: (rows,) int32, negative to leave a row out.
        k: number of clusters.
        comm: `Communicator` of the workers.
        default: (k, dim) float32, the same on all workers, for clusters that have no row.
    """
    points = as_points(points)
    sums = np.zeros((k, points.dim))
    for start, rows in chunks(points, max(16, _CHUNK_BYTES // (4 * points.dim))):
        label = labels[start : start + len(rows)]
        known = label >= 0
        np.add.at(sums, label[known], rows[known].astype(np.float32))
    sums = blocks.all_sum_array(sums, comm)
    counts = comm.all_sum(np.bincount(labels[labels >= 0], minlength=k)).numpy()
    means = sums / np.maximum(counts, 1)[:, None]
    return np.where(counts[:, None] > 0, means, default).astype(np.float32)


def first_of_equals(centroids) -> np.ndarray:
    """(k,) bool: False where an earlier centroid has the same values."""
    seen = set()
    first = np.ones(len(centroids), bool)
    for i, centroid in enumerate(centroids + np.float32(0)):  # -0. and 0. are equal
        digest = hashlib.blake2b(centroid.tobytes(), digest_size=16).digest()
        first[i] = digest not in seen
        seen.add(digest)
    return first
