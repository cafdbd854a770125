"""Statistics of all rows before k-means starts: number, magnitude, and whether all are finite.

stats = RowStats.make(points, comm, seed)     # DataError on every worker for a row that is not
"""

import dataclasses

import numpy as np
import tensorflow as tf

from dc_tf.clustering.magnitude import check_not_too_small
from dc_tf.clustering.row_partition import RowPartition, bad_row_error, rows_at
from dc_tf.clustering.search.parallel_chunks import in_parallel
from dc_tf.clustering.search.tensors import as_tensor
from dc_tf.distributed.collectives import all_gather

_SAMPLE = 256
# Rows are shifted if the square of their mean is more than this share of their variance.
_OFF_CENTRE = 1 / 16
_CHUNK_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True)
class RowStats:
    """What k-means needs to know about the rows; all but `norms` is the same on every worker.

    Attributes:
        partition: of the rows over the workers.
        shift: (dim,) float32 to subtract from rows before products, or None if they lie around 0.
        norms: (rows,) float32 squared lengths of this worker's shifted rows.
        max_abs: largest absolute component of a row, not shifted.
        mean_norm: mean of all workers' norms.
    """

    partition: RowPartition
    shift: np.ndarray | None
    norms: np.ndarray
    max_abs: float
    mean_norm: float

    @classmethod
    def make(cls, points, comm, seed) -> "RowStats":
        """Reads all rows once.

        Raises:
            DataError: on every worker, for rows that differ in length, and for one that is not
                finite or too large to be squared in float32, or if all are too small.
        """
        partition = RowPartition.agree(points, comm)
        shift = _shift(points, comm, partition, seed) if partition.total else None
        norms, max_abs = _measure(points, np.float32(0) if shift is None else shift)
        bad = np.flatnonzero(~np.isfinite(norms))
        bad_row = partition.first + bad[0] + 1 if bad.size else 0
        own = np.float64([max_abs, bad_row, norms.sum(dtype=np.float64)])
        # One number that is not finite would make those of all workers so.
        all_max, bad_rows, all_norms = all_gather(np.nan_to_num(own), comm).T
        if bad_rows.any():
            row = int(bad_rows[np.flatnonzero(bad_rows)[0]]) - 1
            raise bad_row_error(row, points, comm, partition)
        check_not_too_small(float(all_max.max()))
        largest = float(np.float32(all_max.max()))
        mean_norm = float(all_norms.sum()) / max(1, partition.total)
        return cls(partition, shift, norms, largest, mean_norm)


def _shift(points, comm, partition, seed):
    """The mean of some rows, if it is far from 0 compared to their spread."""
    drawn = np.random.default_rng((seed, 1)).choice(
        partition.total, min(_SAMPLE, partition.total), replace=False
    )
    sample = rows_at(np.sort(drawn), points, comm, partition).astype(np.float64)
    mean = sample.mean(axis=0)
    variance = np.sum((sample - mean) ** 2) / len(sample)
    return mean.astype(np.float32) if np.sum(mean**2) > _OFF_CENTRE * variance else None


def _measure(points, shift):
    """(rows,) float32 squared lengths of shifted rows, and the largest absolute component."""
    norms = np.empty(points.rows, np.float32)
    # Traced here, once for all lengths: otherwise several threads would trace at the same time.
    spec = tf.TensorSpec((None, points.dim), points.dtype)
    squares_of = _squares.get_concrete_function(spec, tf.TensorSpec(np.shape(shift)))
    step = max(16, _CHUNK_BYTES // (4 * points.dim))
    max_abs = 0.0

    def measure(start):
        part = slice(start, min(start + step, points.rows))
        squares, largest = squares_of(as_tensor(points.read(part.start, part.stop)), shift)
        norms[part] = squares
        return float(largest)

    shift = tf.constant(shift)
    for largest in in_parallel(measure, range(0, points.rows, step)):
        max_abs = max(max_abs, largest)
    return norms, max_abs


@tf.function(autograph=False)  # there is no control flow to rewrite, which takes half a second
def _squares(rows, shift):
    x = tf.cast(rows, tf.float32)
    largest = tf.reduce_max(tf.abs(rows))  # before a tiny float64 becomes a zero
    return tf.reduce_sum(tf.square(x - shift), 1), tf.cast(largest, tf.float64)
