"""Sums of the rows of each cluster, added without rounding error.

Rows are rounded to multiples of a power of two, the quantum: fine enough that a row loses less
than in float32, coarse enough that every sum of rows fits into the bits of float64. Additions are
then exact and independent of order, threads and steps, so rows can be added and subtracted, and
only rows that change their cluster are processed.

    sums = ClusterSums(k, dim, quantum_of(max_abs, rows))
    sums.move(rows, old_labels, new_labels)
"""

import math
import threading

import numpy as np
import tensorflow as tf

from dc_tf.clustering.aligned import aligned_empty
from dc_tf.clustering.search.tensors import as_tensor, has_gpu
from dc_tf.clustering.search.tiles import BLAS_ALONE

_FLOAT64_BITS = 53
# Every float16 is a multiple of this.
_FLOAT16_QUANTUM = 2.0**-24
# Larger pieces leave the caches, smaller ones cost more in calls.
_CHUNK_BYTES = 4 << 20
_GPU_CHUNK_BYTES = 128 << 20
# Up to so many clusters, and components of all of them, a matrix product is faster than adding row
# by row.
_FEW = 16
_FEW_COMPONENTS = 16384
# From so many components on, on a CPU, NumPy adds a row to another in half of TensorFlow's time.
_WIDE = 2048


class ClusterSums:
    """(k, dim) float64 sums of rows; may be changed by several threads at once.

    Args:
        k: number of clusters.
        dim: components of a row.
        quantum: of `quantum_of`.
        on_gpu: do the arithmetic in TensorFlow, with rows copied to the device as stored; None
            does so if there is a GPU.
    """

    def __init__(self, k, dim, quantum, on_gpu=None):
        self._k = k
        self._on_gpu = has_gpu() if on_gpu is None else on_gpu
        self._few = k <= _FEW and k * dim <= _FEW_COMPONENTS
        self._in_numpy = (self._few or dim >= _WIDE) and not self._on_gpu
        if self._in_numpy:
            self._sums = aligned_empty((k, dim), np.float64)
            self._sums[:] = 0.0
        else:
            self._sums = tf.Variable(tf.zeros((k, dim), tf.float64), trainable=False)
        # Adding and subtracting this rounds to its unit in the last place, the quantum.
        self._rounding_constant = np.float64(1.5 * 2.0 ** (_FLOAT64_BITS - 1) * quantum)
        self._exact_float16 = quantum <= _FLOAT16_QUANTUM
        piece_bytes = _GPU_CHUNK_BYTES if self._on_gpu else _CHUNK_BYTES
        self._step = max(1, piece_bytes // (8 * dim))
        self._scratch = threading.local()
        self._lock = threading.Lock()

    def move(self, rows, old, new) -> None:
        """Moves rows from the clusters `old` to the clusters `new`.

        Args:
            rows: (n, dim) floating array.
            old: (n,) int32; negative for a row that is in no cluster.
            new: (n,) int32.
        """
        for start in range(0, len(new), self._step):
            part = slice(start, start + self._step)
            values = self._rounded(rows[part])
            if self._few:
                self._add_few(values, old[part], new[part])
                continue
            with self._lock:
                if self._in_numpy:
                    _move_row_by_row(self._sums, np.asarray(values), old[part], new[part])
                else:
                    self._scatter(values, old[part], new[part])

    def _add_few(self, values, old, new):
        """Adds the changes of all clusters, a product of few rows with all values."""
        if self._on_gpu:
            change = _one_hot_product(values, old, new, self._k)
            with self._lock:
                self._sums.assign_add(change)
            return
        columns = np.arange(len(new))
        factors = np.zeros((self._k, len(new)))
        factors[new, columns] = 1.0
        somewhere = old >= 0
        factors[old[somewhere], columns[somewhere]] -= 1.0
        values = np.asarray(values)
        change = np.zeros(self._sums.shape)
        step = max(1, BLAS_ALONE // change.size)
        for start in range(0, len(new), step):
            part = slice(start, start + step)
            change += factors[:, part] @ values[part]
        with self._lock:
            self._sums += change

    def _scatter(self, values, old, new):
        self._sums.scatter_add(tf.IndexedSlices(values, new))
        somewhere = np.flatnonzero(old >= 0)
        if somewhere.size == len(old):
            self._sums.scatter_sub(tf.IndexedSlices(values, old))
        elif somewhere.size:
            gone = tf.IndexedSlices(tf.gather(values, somewhere), old[somewhere])
            self._sums.scatter_sub(gone)

    def _rounded(self, rows):
        """(n, dim) float64 tensor of multiples of the quantum; valid until this thread's next."""
        if rows.dtype.itemsize == 2 or self._on_gpu:
            # TensorFlow reads short floats faster than NumPy.
            values = tf.cast(as_tensor(rows), tf.float64)
            if self._exact_float16 and rows.dtype == np.float16:
                return values
            if self._on_gpu:
                return values + self._rounding_constant - self._rounding_constant
            rows = np.asarray(values)
        # Into existing memory: allocating would cost more than the arithmetic.
        if not hasattr(self._scratch, "multiples"):
            self._scratch.multiples = aligned_empty((self._step, rows.shape[1]), np.float64)
        multiples = self._scratch.multiples[: len(rows)]
        # By its type: NumPy 1 would add in that of the rows, the constant being a scalar.
        np.add(rows, self._rounding_constant, out=multiples, dtype=np.float64)
        multiples -= self._rounding_constant
        return as_tensor(multiples)

    def __getitem__(self, block: slice) -> tf.Tensor:
        """(n, dim) float64 sums of a block of clusters."""
        if self._in_numpy:
            return as_tensor(self._sums[block])
        # Not `self._sums[block]`: once rows were scattered into it, TensorFlow copies the whole
        # variable to read a slice.
        return self._sums.sparse_read(tf.range(*block.indices(self._k)))


def quantum_of(max_abs: float, rows: int) -> float:
    """The power of two whose multiples, up to `rows` rows of them, add up exactly in float64.

    Rounding to it changes a component by at most 2**-51 * rows * max_abs: for 100 million rows,
    by no more than rounding the largest one to float32 does.

    Args:
        max_abs: largest absolute component of all rows.
        rows: their number.
    """
    if max_abs == 0:
        return _FLOAT16_QUANTUM
    bits = math.frexp(max_abs)[1] + max(1, rows).bit_length()
    return math.ldexp(1.0, max(bits - _FLOAT64_BITS + 1, -1022))


def _move_row_by_row(sums, values, old, new):
    for row, source, target in zip(values, old.tolist(), new.tolist(), strict=True):
        total = sums[target]
        total += row
        if source >= 0:
            total = sums[source]
            total -= row


@tf.function(reduce_retracing=True)
def _one_hot_product(values, old, new, k):
    change = tf.one_hot(new, k, dtype=tf.float64) - tf.one_hot(old, k, dtype=tf.float64)
    return tf.matmul(change, values, transpose_a=True)
