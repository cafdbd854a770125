"""Selects the search for the nearest centroid: TensorFlow, or faiss where it is faster.

nearest = make_backend("auto", k, dim, precision)
nearest.name
"""

import functools
import importlib.util

import numpy as np
from absl import logging

from dc_tf import precision as precision_lib
from dc_tf.clustering.search.nearest import PRECISIONS, NearestCentroid
from dc_tf.clustering.search.nearest_on_gpu import NearestOnGpu
from dc_tf.clustering.search.tensors import has_gpu
from dc_tf.clustering.search.tiles import transit_bytes
from dc_tf.distributed.collectives import ALONE, all_gather
from dc_tf.errors import ConfigError
from dc_tf.precision import kernels

BACKENDS = ("auto", "tensorflow", "faiss")


def make_backend(backend, k, dim, precision, memory_bytes=None):
    """A `NearestCentroid`, or what behaves like it.

    Args:
        backend: one of `BACKENDS`.
        k, dim, precision, memory_bytes: as of `NearestCentroid`.

    Raises:
        ConfigError: for a backend that does not exist, is not installed, or lacks the precision.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"backend is {backend!r}; use {', '.join(BACKENDS)}.")
    if backend == "auto":
        backend = _faster(k, dim, precision)
    if backend == "faiss":
        _check_precision_of_faiss(precision)
        return FaissNearest(k, dim, memory_bytes)
    on_device = NearestOnGpu if has_gpu() else NearestCentroid
    return on_device(k, dim, precision, memory_bytes)


def choose_precision(precision, backend, k, dim, comm=ALONE) -> precision_lib.Choice:
    """The precision of the products, the same on every worker of `comm`; all call this.

    Args:
        precision: "auto", or one of `PRECISIONS`, which is taken.
        backend, k, dim: as of `make_backend`.

    Raises:
        ConfigError: for a precision that does not exist.
    """
    if precision not in (precision_lib.AUTO, *PRECISIONS):
        raise ConfigError(
            f"precision is {precision!r}; use {', '.join((precision_lib.AUTO, *PRECISIONS))}."
        )
    if backend == "faiss":
        if precision == precision_lib.AUTO:
            return precision_lib.Choice(precision, "float32", reason="auto: all that faiss has")
        _check_precision_of_faiss(precision)
        return precision_lib.Choice(precision, "float32")
    if precision == precision_lib.AUTO and backend == "auto":
        if all_gather(_faster(k, dim, "float32") == "faiss", comm).all():
            reason = f"auto: faiss is the fastest for {dim} components"
            return precision_lib.Choice(precision, "float32", reason=reason)
    choice = precision_lib.choose(precision, "product", dim, comm)
    if choice.dtype == "float32":
        _warn_of_coarse_float32(dim)
    return choice


@functools.cache
def _warn_of_coarse_float32(dim):
    """Once a process: ONEDNN_DEFAULT_FPMATH_MODE and the like make float32 less than it says."""
    excess = max(precision_lib.excess_error(kernel, dim, "float32") for kernel in kernels())
    if excess > 1:
        logging.warning(
            "k-means: float32 products round %.2g times as coarsely as float32 does on this "
            "device; clusters will be worse. Unset what allows that, such as "
            "ONEDNN_DEFAULT_FPMATH_MODE, or use backend faiss.",
            excess,
        )


def _check_precision_of_faiss(precision):
    if precision != "float32":
        raise ConfigError(
            f"backend 'faiss' has float32 only and precision is {precision!r}; use backend "
            "'tensorflow', or precision 'float32'."
        )


def _faster(k, dim, precision):
    """The faster on CPUs by `benchmarks/results/kmeans.md`; on a GPU rows would have to return."""
    installed = importlib.util.find_spec("faiss") is not None
    narrow = dim <= 16 or (dim <= 32 and k > 16)
    if installed and not has_gpu() and narrow and precision == "float32":
        return "faiss"
    return "tensorflow"


class FaissNearest:
    """Like `NearestCentroid`, by an exact search of faiss."""

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
        # Of a row as in `tile_shape`; scores there are of as many as faiss takes at once.
        row, scores = 12 * dim, 4 * min(k, faiss.cvar.distance_compute_blas_database_bs)
        most = max(memory_bytes // (row + scores), (memory_bytes - at_once * scores) // row)
        self.chunk_rows = max(1, min(rows, most))
        self.row_bytes = 4 * dim

    def load(self, centroids, used=None, shift=None, level=0.0):
        """As in `NearestCentroid`."""
        del level
        self._shift = shift
        self._ids = np.arange(len(centroids)) if used is None else np.flatnonzero(used)
        self._index = self._faiss.IndexFlatL2(self._dim)
        self._index.add(self.prepared(centroids[self._ids]))

    def prepared(self, rows, norms=None):
        """(n, dim) float32 array of shifted rows."""
        del norms
        rows = np.asarray(rows, np.float32)
        return np.ascontiguousarray(rows if self._shift is None else rows - self._shift)

    def __call__(self, x):
        """As in `NearestCentroid`, but no scores; ties go to any of the nearest."""
        # Lanes are the threads: a team of faiss's for each would outnumber the cores.
        threads = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(1)
        try:
            _, found = self._index.search(x, 1)
        finally:
            self._faiss.omp_set_num_threads(threads)
        return self._ids[found[:, 0]].astype(np.int32), None
