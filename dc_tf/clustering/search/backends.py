"""Selects the search for the nearest centroid: TensorFlow, or faiss where it is faster.

nearest = make_backend("auto", k, dim, precision)
nearest.name
"""

import functools
import importlib.util

from absl import logging

from dc_tf import precision as precision_lib
from dc_tf.clustering.search.interface import NearestSearch
from dc_tf.clustering.search.nearest import NearestCentroid
from dc_tf.clustering.search.nearest_in_faiss import FaissNearest
from dc_tf.clustering.search.nearest_on_gpu import NearestOnGpu
from dc_tf.clustering.search.tensors import has_gpu
from dc_tf.distributed.collectives import ALONE, all_gather
from dc_tf.kmeans_options import AUTO, check_precision_of_backend, choice
from dc_tf.precision import kernels


def make_backend(backend, k, dim, precision, memory_bytes=None) -> NearestSearch:
    """The search for this device and backend.

    Args:
        backend: as of `KMeansOptions`.
        k, dim, precision, memory_bytes: as of `NearestCentroid`.

    Raises:
        ConfigError: for a backend that does not exist, is not installed, or lacks the precision.
    """
    if choice("backend", backend) == AUTO:
        backend = _faster(k, dim, precision)
    check_precision_of_backend(backend, precision)
    if backend == "faiss":
        return FaissNearest(k, dim, memory_bytes)
    on_device = NearestOnGpu if has_gpu() else NearestCentroid
    return on_device(k, dim, precision, memory_bytes)


def choose_precision(precision, backend, k, dim, comm=ALONE) -> precision_lib.Choice:
    """The precision of the products, the same on every worker of `comm`; all call this.

    Args:
        precision: as of `KMeansOptions`; another than "auto" is taken.
        backend, k, dim: as of `make_backend`.

    Raises:
        ConfigError: for a precision that does not exist, or that faiss lacks.
    """
    choice("precision", precision)
    check_precision_of_backend(backend, precision)
    if backend == "faiss":
        reason = "auto: all that faiss has" if precision == AUTO else ""
        return precision_lib.Choice(precision, "float32", reason=reason)
    if precision == AUTO and backend == AUTO:
        if all_gather(_faster(k, dim, "float32") == "faiss", comm).all():
            reason = f"auto: faiss is the fastest for {dim} components"
            return precision_lib.Choice(precision, "float32", reason=reason)
    chosen = precision_lib.choose(precision, "product", dim, comm)
    if chosen.dtype == "float32":
        _warn_of_coarse_float32(dim)
    return chosen


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


def _faster(k, dim, precision):
    """The faster on CPUs by `benchmarks/results/kmeans.md`; on a GPU rows would have to return."""
    installed = importlib.util.find_spec("faiss") is not None
    narrow = dim <= 16 or (dim <= 32 and k > 16)
    if installed and not has_gpu() and narrow and precision == "float32":
        return "faiss"
    return "tensorflow"
