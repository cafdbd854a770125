"""Finds clusters of float64 rows that differ by less than float32 resolves.

    unresolved = find_unresolved(points, origin, result, comm)
    if unresolved.rows:
        logging.warning("%s", unresolved)

k-means compares rows in float32. Subtracting a common offset (`centring.py`) does not help where
rows mix sizes: of {0, 1e8, 1e8 + 3} float32 makes two different numbers, and k = 3 finds two
clusters.
"""

from typing import NamedTuple

import numpy as np

from dc_tf.clustering.store.points import chunks
from dc_tf.distributed import blocks

_CHUNK_BYTES = 32 << 20
# Squared rounding errors as a share of the squared distances from the mean of a cluster, from which
# on its rows are not told apart: there, float32 leaves one digit of a distance.
_LOSS = 1e-2
# Squared distances over those that float64 makes, up to which rows are equal: of rows by rounding,
# and of their spread as a difference of sums.
_NOISE = 64.0
_FLOAT64_STEP = 2.0**-53


class Unresolved(NamedTuple):
    """Clusters whose rows float32 cannot tell apart; the same on every worker.

    Attributes:
        clusters, rows: how many.
        distance, rounding: root mean square, over these rows, of the distance from the mean of the
            cluster and of the error of rounding to float32.
    """

    clusters: int
    rows: int
    distance: float
    rounding: float

    def __str__(self):
        return (
            f"k-means: {self.rows} rows in {self.clusters} clusters lie {self.distance:.2g} from "
            f"the mean of their cluster, and rounding to float32 moves them by "
            f"{self.rounding:.2g}: clusters inside these are not found. Cluster these rows by "
            "themselves, or scale large components down."
        )


def find_unresolved(points, origin, result, comm) -> Unresolved:
    """Compares float64 rows with the float32 rows that were clustered, in one pass.

    Args:
        points: this worker's rows, as given; others than float64 cost nothing.
        origin: (dim,) float64 that was subtracted, or None.
        result: KMeansResult of these rows, with centroids about 0, not about the origin.
        comm: `Communicator` of all workers.
    """
    k, dim = result.centroids.shape
    sums = np.zeros((k, dim + 3))  # of distances from the centroid; of squares, errors, lengths
    if points.dtype == np.float64:
        shift = 0.0 if origin is None else origin
        step = max(1, _CHUNK_BYTES // (8 * dim))
        for first, rows in chunks(points, step):
            labels = result.assignments[first : first + len(rows)]
            _add(sums, labels, _terms(rows, shift, result.centroids[labels]))
    sums = blocks.all_sum_array(sums, comm)
    return _summary(sums, np.maximum(result.counts, 1))


def _terms(rows, shift, centroids):
    """(n, dim + 3): distance vector, its square, squared rounding error, squared length."""
    centred = rows - shift
    vectors = centred - centroids
    errors = centred - centred.astype(np.float32)
    squares = [np.einsum("nd,nd->n", x, x) for x in (vectors, errors, rows)]
    return np.column_stack([vectors, *squares])


def _add(sums, labels, terms):
    """Adds (n, m) terms to the rows of (k, m) sums that (n,) labels name."""
    order = np.argsort(labels, kind="stable")
    found, starts = np.unique(labels[order], return_index=True)
    sums[found] += np.add.reduceat(terms[order], starts)


def _summary(sums, counts):
    vectors, (squares, errors, lengths) = sums[:, :-3], sums[:, -3:].T
    spread = np.maximum(squares - np.einsum("kd,kd->k", vectors, vectors) / counts, 0.0)
    differ = spread > _NOISE * _FLOAT64_STEP * (_FLOAT64_STEP * lengths + squares)
    lost = differ & (errors > _LOSS * spread)
    rows = int(counts[lost].sum())
    per_row = max(1, rows)
    return Unresolved(
        clusters=int(lost.sum()),
        rows=rows,
        distance=float(np.sqrt(spread[lost].sum() / per_row)),
        rounding=float(np.sqrt(errors[lost].sum() / per_row)),
    )
