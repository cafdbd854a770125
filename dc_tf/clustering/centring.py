"""Rows of float64 around a large common offset, which float32 cannot tell apart, less that offset.

k-means computes in float32, with 7 digits: 1e8 and 1e8 + 3 are one number. Where the mean of
float64 rows leaves too few digits for their differences, it is subtracted in float64 first.

    origin = find_origin(points, comm, seed)
    if origin is not None:
        points = Centred(points, origin)
"""

import numpy as np

from dc_tf.clustering.magnitude import check_not_too_small
from dc_tf.clustering.row_partition import RowPartition, rows_at
from dc_tf.distributed.collectives import all_gather
from dc_tf.errors import DataError

_SAMPLE = 256
_FLOAT32_STEP, _FLOAT64_STEP = 2.0**-24, 2.0**-53
# Rounding of the mean to float32, as a share of the root mean squared distance of rows from it,
# from which on rows are centred: there, float32 leaves three digits of the distance.
_LOSS = 1e-3
# The same for float64, from which on rows are equal up to rounding.
_NOISE = 1 / 16


class Centred:
    """Rows of other points less an origin, in float32.

    Args:
        points: the source.
        origin: (dim,) float64.
    """

    def __init__(self, points, origin):
        self.rows = points.rows
        self.dim = points.dim
        self.dtype = np.dtype(np.float32)
        self._points = points
        self._origin = origin

    def read(self, start, stop) -> np.ndarray:
        """(stop - start, dim) float32."""
        return self._centred(self._points.read(start, stop))

    def take(self, positions) -> np.ndarray:
        """(n, dim) float32."""
        return self._centred(self._points.take(positions))

    def _centred(self, rows):
        with np.errstate(over="ignore"):  # reported as a row that is too large
            return (rows - self._origin).astype(np.float32)


def has_float64(points, comm) -> bool:
    """Whether a worker's rows are float64; the same on every worker."""
    return bool(all_gather(points.dtype == np.float64, comm).any())


def find_origin(points, comm, seed, spherical=False) -> np.ndarray | None:
    """(dim,) float64 mean of some rows, if float32 loses the distances of rows from it; or None.

    Always None for rows of other types than float64. The same on every worker.

    Args:
        points: this worker's rows.
        comm: `Communicator` of all workers.
        seed: draws the rows.
        spherical: as of `KMeansOptions`; such centroids need rows about 0.

    Raises:
        DataError: on every worker, for a drawn row that is not finite, rows that differ in length,
            and rows whose distances float32 cannot compute.
    """
    if not has_float64(points, comm):
        return None
    partition = RowPartition.agree(points, comm)
    count = min(_SAMPLE, partition.total)
    if count < 2:
        return None
    drawn = np.random.default_rng((seed, 1)).choice(partition.total, count, replace=False)
    sample = rows_at(np.sort(drawn), points, comm, partition, np.float64)
    mean = sample.mean(axis=0)
    if not _is_lost(mean, sample):
        return None
    if spherical:
        raise DataError(
            "rows differ only in digits that float32 does not have, and spherical centroids need "
            "rows about 0; leave out --spherical."
        )
    largest = float(np.abs(sample - mean).max())
    check_not_too_small(largest, "the largest difference of the rows from their mean is")
    return mean


def _is_lost(mean, sample):
    """Whether rounding the mean to float32 takes digits in which rows differ."""
    with np.errstate(over="ignore", invalid="ignore"):
        spread = np.sqrt(np.sum((sample - mean) ** 2) / len(sample))
        size = np.sqrt(np.sum(mean**2))
    is_lost = _FLOAT32_STEP * size > _LOSS * spread
    is_noise = _FLOAT64_STEP * size > _NOISE * spread
    return is_lost and not is_noise and np.isfinite(size)
