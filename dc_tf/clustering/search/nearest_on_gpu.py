"""The nearest centroid of every row on a GPU: one program for all tiles returns labels only.

One XLA program multiplies a chunk of rows with each tile of centroids in turn and keeps the best
score on the device. It also runs on a CPU, where `nearest.NearestCentroid` is faster.

    nearest = NearestOnGpu(k, dim, "bfloat16")
    nearest.load(centroids)
    labels, scores = nearest(nearest.prepared(rows))
"""

import numpy as np
import tensorflow as tf

from dc_tf.clustering.search.nearest import NearestCentroid

# Lengths that are multiples of this are multiplied by the fast units.
_EVEN = 8


class NearestOnGpu(NearestCentroid):
    """`NearestCentroid` for a GPU; same arguments, same results.

    Attributes:
        factors: what `winners` takes besides rows, once centroids are loaded.
    """

    _on_gpu = True
    _piece_bytes = 64 << 20

    def __init__(self, k, dim, precision="float32", memory_bytes=None):
        super().__init__(k, dim, precision, memory_bytes)
        self._width = _even(self.row_bytes // self._dtype.size)
        self.row_bytes = self._width * self._dtype.size

    def load(self, centroids, used=None, shift=None, level=0.0):
        """As in `NearestCentroid`."""
        super().load(centroids, used, shift, level)
        size = _even(self._tile)
        tiles = tf.stack([self._padded(tile, size) for _, tile, _ in self._tiles])
        self.factors = tiles, tf.constant([start for start, _, _ in self._tiles])
        self._tiles = []
        self._centroids = tf.constant(self._centroids)

    def prepared(self, rows, norms=None):
        """As in `NearestCentroid`."""
        x = super().prepared(rows, norms)
        return tf.pad(x, [[0, 0], [0, self._width - x.shape[1]]])

    def __call__(self, x):
        """As in `NearestCentroid`."""
        # Each shape is compiled once: only powers of two are.
        rows = len(x)
        x = tf.pad(x, [[0, (1 << (rows - 1).bit_length()) - rows], [0, 0]])
        labels, scores = winners(x, *self.factors)
        return labels.numpy()[:rows], scores.numpy()[:rows]

    def _padded(self, tile, size):
        """A (width, size) factor; centroids that are only there to fill it are never the best."""
        width, count = tile.shape
        filling = np.zeros((width, size - count), np.float32)
        filling[self._dim] = -np.inf  # where rows have a one
        tile = tf.concat([tile, tf.cast(filling, self._dtype)], 1)
        return tf.pad(tile, [[0, self._width - width], [0, 0]])

    def _across(self, x, labels, than):
        across = tf.gather(self._centroids, labels) - tf.gather(self._centroids, than)
        return tf.einsum("nd,nd->n", across, x).numpy()


@tf.function(jit_compile=True)
def winners(x, tiles, first):
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


def _even(length):
    return -(-length // _EVEN) * _EVEN
