"""The nearest centroid of every row by an exact search of faiss, the fastest for short rows.

nearest = FaissNearest(k, dim)
nearest.load(centroids)
labels, _ = nearest(nearest.prepared(rows))
"""

import functools

import numpy as np

from dc_tf.clustering.search.comparison import Comparison, products
from dc_tf.clustering.search.tiles import transit_bytes
from dc_tf.errors import ConfigError


class FaissNearest:
    """`NearestSearch` by `faiss.IndexFlatL2`, in float32.

    Args:
        k: number of centroids.
        dim: components of a row.
        memory_bytes: bound for the temporaries of one call; None is `transit_bytes`.

    Raises:
        ConfigError: faiss is not installed.
    """

    name = "faiss"
    precision = "float32"
    exact = True

    def __init__(self, k, dim, memory_bytes=None):
        try:
            import faiss
        except ImportError as error:
            raise ConfigError(
                "backend is 'faiss', which is not installed; pip install faiss-cpu or faiss-gpu, "
                "or use 'tensorflow'."
            ) from error
        self._faiss = faiss
        self._dim = dim
        # Fewer components than its threshold in one call, and faiss compares pair by pair instead
        # of multiplying, in up to thirty times the time; twice of it, as the last chunk is shorter.
        at_once = faiss.cvar.distance_compute_blas_query_bs
        rows = max(at_once, -(-2 * faiss.cvar.distance_compute_blas_threshold // dim))
        memory_bytes = memory_bytes or transit_bytes()
        # Of a row as in `tile_shape`; there are scores of as many rows as faiss takes at once.
        row, scores = 12 * dim, 4 * min(k, faiss.cvar.distance_compute_blas_database_bs)
        most = max(memory_bytes // (row + scores), (memory_bytes - at_once * scores) // row)
        self.chunk_rows = max(1, min(rows, most))
        self.row_bytes = 4 * dim

    def load(self, centroids, used=None, shift=None, level=0.0) -> None:
        """As `NearestSearch.load`."""
        del level
        self._centroids = np.asarray(centroids, np.float32)
        self._shift = shift
        self._ids = np.arange(len(centroids)) if used is None else np.flatnonzero(used)
        self._index = self._faiss.IndexFlatL2(self._dim)
        self._index.add(self.prepared(centroids[self._ids]))

    def prepared(self, rows, norms=None) -> np.ndarray:
        """As `NearestSearch.prepared`: (n, dim) float32."""
        del norms
        rows = np.asarray(rows, np.float32)
        return np.ascontiguousarray(rows if self._shift is None else rows - self._shift)

    def __call__(self, x) -> tuple[np.ndarray, None]:
        """As `NearestSearch.__call__`, without scores; ties go to any of the nearest."""
        # Calls run in several threads: a team of faiss's for each would outnumber the cores.
        threads = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(1)
        try:
            _, found = self._index.search(x, 1)
        finally:
            self._faiss.omp_set_num_threads(threads)
        return self._ids[found[:, 0]].astype(np.int32), None

    def nearer(self, rows, labels, than) -> np.ndarray:
        """As `NearestSearch.nearer`."""
        centroids, shift = self._centroids, self._shift
        shifted = centroids if shift is None else centroids - shift
        norms = np.einsum("kd,kd->k", shifted, shifted) / 2
        across = functools.partial(products, centroids, shift)
        return Comparison(norms, shift, across).nearer(rows, labels, than)
