"""Lloyd k-means on rows that stay on the worker that owns them.

Per iteration the group exchanges one (k, d) sum, one (k,) count and a few scalars, so traffic does
not depend on the number of rows. Every worker takes the same decisions from the exchanged numbers,
and initial rows are drawn by their global position: the same rows give the same clusters on any
number of workers, up to rounding. A group of one is plain k-means.

    result = kmeans(x, k=1000)                                   # one process, any float array
    result = kmeans(store, k=1000, comm=cluster.world, precision="bfloat16")
    result.centroids, result.assignments
"""

import dataclasses

import numpy as np
from absl import logging

from dc_tf.clustering.assign import Assigner
from dc_tf.clustering.centring import Centred, find_origin, has_float64
from dc_tf.clustering.lloyd import KMeansResult, KMeansState, Lloyd
from dc_tf.clustering.resolution import find_unresolved
from dc_tf.clustering.row_stats import RowStats
from dc_tf.clustering.search.backends import choose_precision
from dc_tf.clustering.search.tensors import exact_float32
from dc_tf.clustering.store.points import as_points
from dc_tf.distributed.collectives import Solo
from dc_tf.kmeans_options import KMeansOptions, whole

__all__ = ["KMeansResult", "KMeansState", "kmeans"]


@exact_float32()
def kmeans(
    points,
    k,
    comm=None,
    seed=0,
    options=None,
    on_iteration=None,
    on_progress=None,
    state=None,
    **changes,
) -> KMeansResult:
    """Clusters the rows of all workers: `iterations` of Lloyd and a final assignment.

    Like `faiss.Kmeans(d, k, niter).train(x)` followed by `index.search(x, 1)`, on all rows: no
    sub-sampling.

    An empty cluster takes half of a large one: each its own donor, largest first. Rows that are
    all equal cannot be shared, so a cluster stays empty when no donor is left: with fewer distinct
    rows than k, or fewer rows than k, the surplus clusters have count 0. With no rows at all every
    cluster is empty and the centroids are 0.

    Rows of float64 are compared in float32. Where a large common offset would take the digits in
    which they differ, it is subtracted in float64 first, and the centroids are float64.
    One more pass at the end finds clusters whose rows float32 cannot tell apart; a warning names
    them.

    Besides rows in transit (`memory_bytes`), a worker holds about 24 * k * dim bytes for clusters
    and about 36 bytes a row.

    Args:
        points: this worker's rows: (n, dim) floating array, `FeatureStore` or other
            `points.Points`. n may be 0.
        k: number of clusters, at least 1.
        comm: `Communicator` of the workers whose rows are clustered together; None is this one.
        seed: at least 0; draws the initial rows, and the directions in which clusters are split.
        options: KMeansOptions; None takes its defaults.
        on_iteration: called with the `KMeansState` after each iteration, on every worker.
        on_progress: called with `(rows, iteration=, objective=)` after each chunk of own rows, and
            with `(0, iteration=0, objective=None, drawn=)` as "k-means++" and "k-means||" draw.
        state: a `KMeansState` to resume from, in place of `init`.
        **changes: single options, in place of those of `options`.

    Raises:
        ConfigError: for impossible settings.
        DataError: on every worker, for rows that are not finite, too large or too small to be
            squared in float32, or differ in length.
    """
    options = dataclasses.replace(options or KMeansOptions(), **changes)
    k, seed = whole("k", k, 1), whole("seed", seed, 0)
    comm = comm or Solo()
    given = points = as_points(points)
    origin = find_origin(given, comm, seed, options.spherical)
    if origin is not None:
        points = Centred(given, origin)
    options = dataclasses.replace(options, init=_moved(options.init, origin))
    precision = choose_precision(options.precision, options.backend, k, points.dim, comm).dtype
    assigner = Assigner(
        points, k, precision, options.backend, options.memory_bytes, options.cache_bytes
    )
    stats = RowStats.make(points, comm, seed)
    if stats.partition.total == 0:
        return _nothing(k, points.dim, options.iterations, assigner)
    lloyd = Lloyd(points, k, comm, stats, assigner, seed, options.spherical, on_progress)
    state = lloyd.resumed(state) if state else lloyd.first_state(options.init)
    while state.iteration < options.iterations and not _converged(state, options.tolerance):
        state = lloyd.iterate(state)
        if on_iteration:
            on_iteration(state)
    result = lloyd.finish(state)
    if has_float64(given, comm):
        _warn_of_unresolved(find_unresolved(given, origin, result, comm), comm)
    if origin is None:
        return result
    return dataclasses.replace(result, centroids=result.centroids + origin)


def _warn_of_unresolved(unresolved, comm):
    if unresolved.rows and comm.rank == 0:
        logging.warning("%s", unresolved)


def _moved(init, origin):
    """Initial centroids about the origin; names of methods and wrong shapes stay as they are."""
    if origin is None or isinstance(init, str) or np.ndim(init) != 2:
        return init
    if np.shape(init)[1] != len(origin):
        return init
    return (np.asarray(init, np.float64) - origin).astype(np.float32)


def _converged(state, tolerance):
    objective = state.objective
    if not tolerance or len(objective) < 2:
        return False
    return objective[-2] - objective[-1] <= tolerance * objective[-2]


def _nothing(k, dim, iterations, assigner):
    return KMeansResult(
        centroids=np.zeros((k, dim), np.float32),
        assignments=np.zeros(0, np.int32),
        counts=np.zeros(k, np.int64),
        objective=[0.0] * (iterations + 1),
        iterations=iterations,
        reseeded=0,
        exchanged_bytes=0,
        backend=assigner.backend,
        precision=assigner.precision,
    )
