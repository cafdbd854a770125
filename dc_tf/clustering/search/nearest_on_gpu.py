"""The nearest centroid of every row on a GPU: one program for all tiles returns labels only.

One XLA program multiplies a chunk of rows with each tile of centroids in turn and keeps the best
score on the device. It also runs on a CPU, where `nearest.NearestCentroid` is faster.

    nearest = NearestOnGpu(k, dim, "bfloat16")
    nearest.load(centroids)
    labels, scores = nearest(nearest.prepared(rows))
"""

import functools

import numpy as np
import tensorflow as tf

from dc_tf.clustering.search.comparison import Comparison
from dc_tf.clustering.search.score_product import ScoreProduct
from dc_tf.clustering.search.tiles import tile_shape, transit_bytes

# Lengths that are multiples of this are multiplied by the fast units.
_EVEN = 8
# Rows that are compared at once.
_PIECE_BYTES = 64 << 20


class NearestOnGpu:
    """`NearestSearch` by one XLA program; arguments and results as of `NearestCentroid`.

    Attributes:
        name, precision, exact, chunk_rows, row_bytes: as of `NearestSearch`.
        factors: what `winners` takes besides rows, once centroids are loaded.
    """

    name = "tensorflow"

    def __init__(self, k, dim, precision="float32", memory_bytes=None):
        self._dim = dim
        self._product = ScoreProduct(dim, precision, is_longer=True)
        self.precision = precision
        self.exact = self._product.exact
        item_bytes = self._product.dtype.size
        self._width = _even(self._product.width)
        self.row_bytes = self._width * item_bytes
        memory_bytes = memory_bytes or transit_bytes(True)
        shape = tile_shape(k, dim, item_bytes, memory_bytes, on_gpu=True)
        self.chunk_rows, self._tile = shape.rows, shape.centroids

    def load(self, centroids, used=None, shift=None, level=0.0) -> None:
        """As `NearestSearch.load`."""
        centroids = np.asarray(centroids, np.float32)
        self.factors = self._comparison = None  # frees their memory before the next take theirs
        tiles = self._product.tiles(centroids, self._tile, used, shift, level)
        size = _even(self._tile)
        factors = tf.stack([self._padded(tile.factor, size) for tile in tiles])
        self.factors = factors, tf.constant([tile.start for tile in tiles])
        norms = np.concatenate([tile.half_squared_norms for tile in tiles])
        across = functools.partial(_products, tf.constant(centroids))
        self._comparison = Comparison(norms, shift, across, _PIECE_BYTES)

    def prepared(self, rows, norms=None) -> tf.Tensor:
        """As `NearestSearch.prepared`."""
        x = self._product.rows(rows, norms)
        return tf.pad(x, [[0, 0], [0, self._width - x.shape[1]]])

    def __call__(self, x) -> tuple[np.ndarray, np.ndarray]:
        """As `NearestSearch.__call__`; equal scores go to the lowest index."""
        # Each shape is compiled once: only powers of two are.
        rows = len(x)
        x = tf.pad(x, [[0, (1 << (rows - 1).bit_length()) - rows], [0, 0]])
        labels, scores = winners(x, *self.factors)
        return labels.numpy()[:rows], scores.numpy()[:rows]

    def nearer(self, rows, labels, than) -> np.ndarray:
        """As `NearestSearch.nearer`."""
        return self._comparison.nearer(rows, labels, than)

    def _padded(self, factor, size):
        """A (width, size) factor; the centroids that fill it up are never the best."""
        width, count = factor.shape
        filling = np.zeros((width, size - count), np.float32)
        filling[self._dim] = -np.inf  # where rows have a one
        factor = tf.concat([factor, tf.cast(filling, factor.dtype)], 1)
        return tf.pad(factor, [[0, self._width - width], [0, 0]])


@tf.function(jit_compile=True)
def winners(x, tiles, first) -> tuple[tf.Tensor, tf.Tensor]:
    """The best of all tiles for each row; equal scores go to the lowest index.

    Args:
        x: (n, d) prepared rows.
        tiles: (t, d, c) of c centroids each, of the same dtype.
        first: (t,) int32 index of the first centroid of a tile.

    Returns:
        (n,) int32 labels and their (n,) float32 scores.
    """
    label, best = tf.zeros(x.shape[0], tf.int32), tf.fill([x.shape[0]], -np.inf)
    for tile in tf.range(tiles.shape[0]):
        scores = tf.matmul(x, tiles[tile])
        score = tf.cast(tf.reduce_max(scores, 1), tf.float32)
        winner = first[tile] + tf.argmax(scores, 1, tf.int32)
        label = tf.where(score > best, winner, label)
        best = tf.maximum(score, best)
    return label, best


def _products(centroids, x, labels, than):
    """As `comparison.products`, where the centroids (k, dim) are."""
    across = tf.gather(centroids, labels) - tf.gather(centroids, than)
    return tf.einsum("nd,nd->n", across, x).numpy()


def _even(length):
    return -(-length // _EVEN) * _EVEN
