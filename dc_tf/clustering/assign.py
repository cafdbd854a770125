"""One pass of k-means over a worker's rows: labels, and the sums that follow from them.

Several threads process chunks of rows (`search/parallel_chunks.py`). The assigner keeps the labels
of the last pass and moves only rows that change their cluster from one sum to another. After the
first iterations few do, so a pass costs little more than its matrix product.

    assigner.begin(stats)
    for rows in assigner.assign(centroids, used, level): ...
    assigner.labels, assigner.counts, assigner.sums, assigner.squares
"""

import threading
from collections.abc import Iterator

import numpy as np

from dc_tf.clustering.search.backends import make_backend
from dc_tf.clustering.search.parallel_chunks import in_parallel, thread_count
from dc_tf.clustering.search.sums import ClusterSums, quantum_of
from dc_tf.clustering.search.tensors import has_gpu
from dc_tf.clustering.search.tiles import transit_bytes

# Rows to move are collected up to the first size; a chunk with at least the second is moved alone,
# which saves a copy.
_PROPOSED_BYTES = 16 << 20
_ALONE_BYTES = 2 << 20
# Above this share of rows to move, the others are passed along: to select costs more.
_MOST = 0.7


class Assigner:
    """Assigns this worker's rows to clusters and keeps the sums of the clusters.

    Args:
        points, k: as in `kmeans`.
        precision, backend, memory_bytes, cache_bytes: as in `KMeansOptions`.

    Attributes:
        backend: name of the search for the nearest centroids.
        precision: of its products.
        labels: (rows,) int32, a new array in each pass; negative before the first.
        counts: (k,) int64 rows of each cluster.
        sums: (k, dim) float64 `ClusterSums`.
        squares: (k,) float64 sums of the squared lengths of the shifted rows.
    """

    def __init__(self, points, k, precision, backend, memory_bytes, cache_bytes):
        self._points = points
        self._k = k
        chunk_bytes = (memory_bytes or transit_bytes(has_gpu())) // thread_count()
        self._nearest = make_backend(backend, k, points.dim, precision, chunk_bytes)
        fits = points.rows * self._nearest.row_bytes <= cache_bytes
        self._cache = {} if fits else None
        self._proposals = _Proposals(4 * points.dim)
        self.backend = self._nearest.name
        self.precision = self._nearest.precision

    def begin(self, stats) -> None:
        """Resets to no row in any cluster; `stats` is the `RowStats` of the points."""
        self._stats = stats
        quantum = quantum_of(stats.max_abs, stats.partition.total)
        self.sums = ClusterSums(self._k, self._points.dim, quantum)
        self.labels = np.full(self._points.rows, -1, np.int32)
        self.counts = np.zeros(self._k, np.int64)
        self.squares = np.zeros(self._k)

    def restore(self, labels) -> None:
        """Assigns every row to its cluster of an earlier pass: (rows,) int32 labels."""

        def add(part):
            rows = self._points.read(part.start, part.stop)
            self.sums.move(rows, self.labels[part], labels[part])

        for _ in in_parallel(add, self._chunks()):
            pass
        self.labels = np.array(labels, np.int32)
        self._count()

    def assign(self, centroids, used, level) -> Iterator[int]:
        """Yields the number of rows of each assigned chunk; read the attributes after the last.

        Args:
            centroids, used: (k, dim) float32 and (k,) bool.
            level: about the squared distance of a row from its centroid.
        """
        self._nearest.load(centroids, used, self._stats.shift, level)
        self.labels = self.labels.copy()

        def assign(part):
            self._propose(part)
            return part.stop - part.start

        yield from in_parallel(assign, self._chunks())
        self._settle(self._proposals.take_all())
        self._count()

    def _propose(self, part):
        """Finds the rows of a chunk whose nearest centroid is another than before."""
        rows = None
        x = self._cache.get(part.start) if self._cache is not None else None
        if x is None:
            rows = self._points.read(part.start, part.stop)
            x = self._nearest.prepared(rows, self._stats.norms[part])
            if self._cache is not None:
                self._cache[part.start] = x
        found, _ = self._nearest(x)
        moved = np.flatnonzero(found != self.labels[part])
        if moved.size:
            if rows is None:
                rows = self._points.take(part.start + moved)
            elif moved.size < len(rows):
                rows = rows[moved]
            self._settle(self._proposals.add(part.start + moved, rows, found[moved]))

    def _settle(self, proposals):
        """Moves rows to other clusters: (n,) positions, (n, dim) rows and (n,) new labels."""
        if proposals is None:
            return
        positions, rows, new = proposals
        old = self.labels[positions]
        if not self._nearest.exact and old[0] >= 0:  # in the first pass no row has a cluster
            nearer = self._nearest.nearer(rows, new, old)
            if np.mean(nearer) < _MOST:
                positions, rows, old, new = (a[nearer] for a in (positions, rows, old, new))
            else:  # moving a row out of a sum and back costs less than copying the rest
                new = np.where(nearer, new, old)
        self.labels[positions] = new
        self.sums.move(rows, old, new)

    def _chunks(self):
        step = self._nearest.chunk_rows
        rows = self._points.rows
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

    def _count(self):
        self.counts = np.bincount(self.labels, minlength=self._k)
        squares = np.bincount(self.labels, self._stats.norms, self._k)
        self.squares = squares.astype(np.float64, copy=False)  # of no rows, NumPy counts integers


class _Proposals:
    """Rows to move, collected from many chunks: moving a few at a time costs more calls."""

    def __init__(self, row_bytes):
        self._row_bytes = row_bytes
        self._lock = threading.Lock()
        self._parts = []

    def add(self, *arrays):
        """Keeps arrays of equal length; returns those to move now, or None."""
        if len(arrays[0]) * self._row_bytes >= _ALONE_BYTES:
            return arrays
        with self._lock:
            self._parts.append(arrays)
            if sum(len(part[0]) for part in self._parts) * self._row_bytes < _PROPOSED_BYTES:
                return None
            return self._joined()

    def take_all(self):
        """All that is kept, or None."""
        with self._lock:
            return self._joined() if self._parts else None

    def _joined(self):
        parts, self._parts = self._parts, []
        if len(parts) == 1:
            return parts[0]
        return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
