"""The nearest centroid of every row, at the speed of a matrix product.

`argmin |x - c|^2` is `argmax x.c - |c|^2 / 2`: one product of a chunk of rows with a tile of
centroids, then an arg-max that stays in the tile. Rows and centroids are first moved by `shift`:
a large common offset would otherwise cancel away the digits that matter. Equal scores go to the
lowest index, in a tile and between tiles, so the tiling affects speed only.

    nearest = NearestCentroid(k, dim, "bfloat16")
    nearest.load(centroids)
    labels, scores = nearest(nearest.prepared(rows))

With bfloat16, products are summed in float32 and the sum is rounded to bfloat16's 8 bits. To keep
the relevant bits, the score is `(level - |x - c|^2) / 2`: with a level near the squared distance
of a row from its centroid, the best scores are close to 0, where bfloat16 has the finest spacing.
`nearer` resolves remaining near-ties in float32. Kernels that round intermediate sums lose these
bits; `backends.choose_precision` does not use bfloat16 with them.
"""

import numpy as np
import tensorflow as tf

from dc_tf.clustering.search.tensors import as_array, as_tensor
from dc_tf.clustering.search.tiles import BLAS_ALONE, tile_shape, transit_bytes
from dc_tf.errors import ConfigError

PRECISIONS = ("float32", "bfloat16")
# Rows that are compared at once by `nearer`: they and two differences stay in a cache.
_PIECE_BYTES = 1 << 20
# Up to so many centroids, rows are multiplied with all of them sooner than with differences of two.
_FEW = 8
# A float32 is the sum of three bfloat16.
_PARTS = 3


class NearestCentroid:
    """Assigns rows to the nearest of k centroids; may be called by several threads at once.

    Args:
        k: number of centroids.
        dim: components of a row.
        precision: "float32", or "bfloat16" for the products.
        memory_bytes: bound for the temporaries of one call; None is `transit_bytes`.

    Attributes:
        name: "tensorflow", for reports.
        precision: as given.
        exact: whether labels are right to float32 rounding without `nearer`.
        chunk_rows: rows to pass in one call so that temporaries stay within the memory bound.
        row_bytes: of a prepared row.
    """

    name = "tensorflow"
    _on_gpu = False
    _piece_bytes = _PIECE_BYTES

    def __init__(self, k, dim, precision="float32", memory_bytes=None):
        if precision not in PRECISIONS:
            raise ConfigError(f"precision is {precision!r}; use {' or '.join(PRECISIONS)}.")
        self._dim = dim
        self.precision = precision
        self._dtype = tf.as_dtype(precision)
        self.exact = self._dtype == tf.float32
        memory_bytes = memory_bytes or transit_bytes(self._on_gpu)
        shape = tile_shape(k, dim, self._dtype.size, memory_bytes, self._on_gpu)
        self.chunk_rows, self._tile = shape.rows, shape.centroids
        # The term |c|^2 / 2 is either part of the product, which makes rows a little longer, or
        # added to the scores: whichever there are fewer of. Other than float32 rows are made anew
        # in any case.
        self._longer = dim <= k or not self.exact or self._on_gpu
        added = self._longer * _PARTS * (1 if self.exact else 2)
        self.row_bytes = (dim + added) * self._dtype.size

    def load(self, centroids, used=None, shift=None, level=0.0):
        """Takes the centroids of the next calls.

        Args:
            centroids: (k, dim) float32 array.
            used: (k,) bool array; rows are never assigned to a centroid that is not used.
                At least one is.
            shift: (dim,) float32 that is subtracted from rows and centroids; None is 0.
            level: squared distance where bfloat16 scores are the finest; no matter for float32.
        """
        self._shift = shift
        self._centroids = np.asarray(centroids, np.float32)
        self._half_squared_norms = np.empty(len(centroids), np.float32)
        self._tiles = []
        for start in range(0, len(centroids), self._tile):
            part = slice(start, start + self._tile)
            tile = tf.constant(self._centroids[part])
            if shift is not None:
                tile -= shift
            offsets = tf.reduce_sum(tf.square(tile), 1) / -2.0
            self._half_squared_norms[part] = -offsets
            if not self.exact:
                offsets += level / 2.0
            if used is not None:
                offsets = tf.where(used[part], offsets, -np.inf)
            tile = tf.cast(tile, self._dtype)
            if self._longer:
                tile = tf.concat([tile, self._offset_columns(offsets)], 1)
            # Transposed once here, not in each product.
            self._tiles.append((start, tf.transpose(tile), offsets))

    def prepared(self, rows, norms=None):
        """What a call takes: a tensor of shifted rows, as good for the next `load`.

        Args:
            rows: (n, dim) floating array or tensor.
            norms: (n,) float32 squared lengths of the shifted rows, if they are known.
        """
        rows = as_tensor(rows)
        x = tf.cast(rows, self._dtype) if self._shift is None else self._shifted(rows)
        if not self._longer:
            return x
        columns = [x, tf.ones((len(x), _PARTS), self._dtype)]
        if not self.exact:
            norms = tf.reduce_sum(tf.square(tf.cast(x, tf.float32)), 1) if norms is None else norms
            columns.append(_parts(norms / -2.0, self._dtype))
        return tf.concat(columns, 1)

    def __call__(self, x):
        """The nearest centroid of each prepared row.

        Args:
            x: tensor of n > 0 rows from `prepared`.

        Returns:
            (n,) int32 labels and their (n,) float32 scores: `x.c - |c|^2 / 2` of shifted x and c,
            or with bfloat16 about `(level - |x - c|^2) / 2`.
        """
        label, best = None, None
        for start, tile, offsets in self._tiles:
            scores = tf.matmul(x, tile)
            if not self._longer:
                scores = tf.cast(scores, tf.float32) + offsets
            winner, score = _winners(scores)
            if label is None:
                label, best = winner, score
            else:
                label = np.where(score > best, start + winner, label)
                best = np.maximum(best, score)
        return label.astype(np.int32), best

    def nearer(self, rows, labels, than) -> np.ndarray:
        """(n,) bool: in float32, rows are nearer to the centroids `labels` than to `than`.

        Args:
            rows: (n, dim) floating array.
            labels, than: (n,) int32.
        """
        nearer = np.empty(len(labels), bool)
        step = max(1, self._piece_bytes // (4 * rows.shape[1]))
        for start in range(0, len(labels), step):
            part = slice(start, start + step)
            x = rows[part]
            if x.dtype != np.float32:
                x = tf.cast(as_tensor(x), tf.float32)
            x = x if self._shift is None else x - self._shift
            # The plane half-way between two centroids: on which side of it is x?
            half_way = self._half_squared_norms[labels[part]] - self._half_squared_norms[than[part]]
            nearer[part] = self._across(x, labels[part], than[part]) > half_way
        return nearer

    def _across(self, x, labels, than):
        """(n,) float32 products of rows with the difference of two centroids."""
        x = np.asarray(x)
        centroids = self._centroids
        if len(centroids) > _FEW:
            across = centroids[labels]
            across -= centroids[than]
            return np.einsum("nd,nd->n", across, x)
        if self._shift is not None:
            centroids = centroids - self._shift
        products = np.empty((len(x), len(centroids)), np.float32)
        step = max(1, BLAS_ALONE // centroids.size)
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            np.matmul(x[part], centroids.T, out=products[part])
        rows = np.arange(len(x))
        return products[rows, labels] - products[rows, than]

    def _offset_columns(self, offsets):
        """(k, ...) what the columns that `prepared` adds are multiplied with."""
        parts = _parts(offsets, self._dtype)
        return parts if self.exact else tf.concat([parts, tf.ones_like(parts)], 1)

    def _shifted(self, rows):
        return tf.cast(tf.cast(rows, tf.float32) - self._shift, self._dtype)


def _winners(scores):
    """(n,) int64 arg-max and (n,) float32 maximum of each row of an (n, k) tensor on a CPU.

    NumPy reads the tensor in place, at memory speed; TensorFlow takes three times as long.
    """
    rows = np.arange(len(scores))
    if scores.dtype == tf.float32:
        scores = as_array(scores)
        winner = np.argmax(scores, 1)
        return winner, scores[rows, winner]
    # The bits of a bfloat16, as an integer, are ordered like its value if that is positive, and the
    # other way round if all are negative.
    bits = as_array(scores, np.int16)
    winner = np.argmax(bits, 1)
    best = bits[rows, winner]
    negative = np.flatnonzero(best < 0)
    if negative.size:
        winner[negative] = np.argmin(bits[negative], 1)
        best[negative] = bits[negative, winner[negative]]
    return winner, best.view(scores.dtype.as_numpy_dtype).astype(np.float32)


def _parts(numbers, dtype):
    """(n, _PARTS) whose rows sum to `numbers` (n,) float32, although `dtype` may be shorter."""
    parts = []
    for _ in range(_PARTS):
        parts.append(tf.cast(numbers, dtype))
        rest = numbers - tf.cast(parts[-1], tf.float32)
        numbers = tf.where(tf.math.is_finite(numbers), rest, 0.0)
    return tf.stack(parts, 1)
