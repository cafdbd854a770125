"""Which of two centroids a row is nearer to, in float32.

comparison = Comparison(half_squared_norms, shift, functools.partial(products, centroids, shift))
comparison.nearer(rows, labels, than)
"""

import numpy as np
import tensorflow as tf

from dc_tf.clustering.search.tensors import as_tensor
from dc_tf.clustering.search.tiles import BLAS_ALONE

# Rows that are compared at once: they and two differences stay in a CPU's cache.
_PIECE_BYTES = 1 << 20
# Up to so many centroids, a product of rows with all of them is faster than differences of two.
_FEW = 8


class Comparison:
    """Compares rows with the plane half-way between two centroids.

    Args:
        half_squared_norms: (k,) float32 `|c|^2 / 2` of shifted centroids.
        shift: (dim,) float32 subtracted from rows and centroids; None is 0.
        products: function of (n, dim) shifted float32 rows and two (n,) int32 labels, to the (n,)
            float32 products of rows with the difference of the two centroids.
        piece_bytes: of the rows that are passed to `products` at once.
    """

    def __init__(self, half_squared_norms, shift, products, piece_bytes=_PIECE_BYTES):
        self._half_squared_norms = half_squared_norms
        self._shift = shift
        self._products = products
        self._piece_bytes = piece_bytes

    def nearer(self, rows, labels, than) -> np.ndarray:
        """As `NearestSearch.nearer`."""
        nearer = np.empty(len(labels), bool)
        step = max(1, self._piece_bytes // (4 * rows.shape[1]))
        for start in range(0, len(labels), step):
            part = slice(start, start + step)
            nearer[part] = self._piece(rows[part], labels[part], than[part])
        return nearer

    def _piece(self, x, labels, than):
        if x.dtype != np.float32:
            x = tf.cast(as_tensor(x), tf.float32)
        x = x if self._shift is None else x - self._shift
        half_way = self._half_squared_norms[labels] - self._half_squared_norms[than]
        return self._products(x, labels, than) > half_way


def products(centroids, shift, x, labels, than) -> np.ndarray:
    """(n,) float32 products of rows with the difference of two centroids, on a CPU.

    Args:
        centroids: (k, dim) float32 array, not shifted.
        shift: (dim,) float32, or None.
        x: (n, dim) shifted float32 rows.
        labels, than: (n,) int32.
    """
    x = np.asarray(x)
    if len(centroids) > _FEW:
        across = centroids[labels]
        across -= centroids[than]
        return np.einsum("nd,nd->n", across, x)
    if shift is not None:
        centroids = centroids - shift
    scores = np.empty((len(x), len(centroids)), np.float32)
    step = max(1, BLAS_ALONE // centroids.size)
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        np.matmul(x[part], centroids.T, out=scores[part])
    rows = np.arange(len(x))
    return scores[rows, labels] - scores[rows, than]
