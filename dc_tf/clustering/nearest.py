"""The nearest centroid of every row, at the speed of a matrix product.

`argmin |x - c|^2` is `argmax x.c - |c|^2 / 2`: one product of a chunk of rows with a tile of
centroids, then an arg-max that stays in the tile. Rows and centroids are first shifted by the
mean centroid: a large common offset would otherwise cancel away the digits that matter.
Equal scores go to the lowest index, in a tile and between tiles, so the tiling shows in nothing
but speed.

    nearest = NearestCentroid(k, dim)
    nearest.load(centroids)
    labels, distances = nearest(rows)
"""

import numpy as np
import tensorflow as tf

MEMORY_BYTES = 256 << 20
# Larger ones are no faster on 2 cores (2048 x 2048 products run at the rate of larger ones).
_MAX_TILE = 2048
_MAX_CHUNK = 16384


class NearestCentroid:
    """Assigns rows to the nearest of k centroids.

    Attributes:
        chunk_rows: rows to pass in one call so that temporaries stay within the memory bound.
        shift: (dim,) float32 mean of the centroids in use; distances are exact to float32
            rounding of distances from it.
    """

    def __init__(self, k: int, dim: int, memory_bytes: int = MEMORY_BYTES):
        self._k = k
        self.chunk_rows, self._tile = tile_shape(k, dim, memory_bytes)
        self.shift = None

    def load(self, centroids, used=None):
        """Takes the centroids of the next calls.

        Args:
            centroids: (k, dim) float32 array.
            used: (k,) bool array; rows are never assigned to a centroid that is not used.
                At least one is.
        """
        used = np.ones(self._k, bool) if used is None else used
        self.shift = np.mean(centroids[used], axis=0, dtype=np.float64).astype(np.float32)
        padding = -self._k % self._tile
        shifted = tf.pad(tf.constant(centroids) - self.shift, [[0, padding], [0, 0]])
        offsets = tf.reduce_sum(tf.square(shifted), 1) / -2.0
        self._offsets = tf.where(np.pad(used, (0, padding)), offsets, -np.inf)
        self._centroids = shifted

    def __call__(self, rows):
        """The nearest centroid of each row.

        Args:
            rows: (n, dim) floating array or tensor, n > 0.

        Returns:
            (n,) int32 labels and (n,) float32 squared distances, not finite for a row that is
            not finite.
        """
        return _nearest(rows, self.shift, self._centroids, self._offsets, tf.constant(self._tile))


def tile_shape(k: int, dim: int, memory_bytes: int) -> tuple[int, int]:
    """Rows of a chunk and centroids of a tile whose temporaries fit in `memory_bytes`.

    A row of a chunk exists as it was read, shifted, and in float64 for the sums (16 bytes a
    component), and has one float32 score for each centroid of a tile, held twice at most.
    """
    tiles = -(-k // _MAX_TILE)
    tile = -(-k // tiles)
    chunk = memory_bytes // (16 * dim + 8 * tile)
    return int(np.clip(chunk, 16, _MAX_CHUNK)), tile


@tf.function(reduce_retracing=True)
def _nearest(rows, shift, centroids, offsets, tile):
    x = tf.cast(rows, tf.float32) - shift

    def best_of_tile(start):
        part = slice(start, start + tile)
        # Written so that TensorFlow fuses the addition into the product.
        products = tf.matmul(x, centroids[part], transpose_b=True)
        scores = tf.nn.bias_add(products, offsets[part])
        winner = tf.argmax(scores, 1, output_type=tf.int32)
        return start + winner, tf.gather(scores, winner, batch_dims=1)

    label, best = best_of_tile(0)
    for start in tf.range(tile, tf.shape(centroids)[0], tile):
        tf.autograph.experimental.set_loop_options(parallel_iterations=1)
        tile_label, tile_best = best_of_tile(start)
        label = tf.where(tile_best > best, tile_label, label)
        best = tf.maximum(best, tile_best)
    distance = tf.reduce_sum(tf.square(x), 1) - 2.0 * best
    # Rounding can make a distance slightly negative; relu would hide that a row is not finite.
    return label, tf.where(distance < 0.0, 0.0, distance)
