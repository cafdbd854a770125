"""The nearest centroid of every row on a CPU, at the speed of a matrix product.

One product of a chunk of rows with a tile of centroids (`score_product.py`), then an arg-max that
stays in the tile. Rows and centroids are first moved by `shift`: a large common offset would
otherwise cancel away the digits that matter. Equal scores go to the lowest index, in a tile and
between tiles, so the tiling affects speed only.

    nearest = NearestCentroid(k, dim, "bfloat16")
    nearest.load(centroids)
    labels, scores = nearest(nearest.prepared(rows))

`nearer` resolves in float32 the near-ties that bfloat16 leaves. Kernels that round intermediate
sums leave more; `backends.choose_precision` does not use bfloat16 with them.
"""

import functools

import numpy as np
import tensorflow as tf

from dc_tf.clustering.search.comparison import Comparison, products
from dc_tf.clustering.search.score_product import ScoreProduct
from dc_tf.clustering.search.tensors import as_array
from dc_tf.clustering.search.tiles import tile_shape, transit_bytes


class NearestCentroid:
    """`NearestSearch` by TensorFlow's products and NumPy's arg-max.

    Args:
        k: number of centroids.
        dim: components of a row.
        precision: "float32", or "bfloat16" for the products.
        memory_bytes: bound for the temporaries of one call; None is `transit_bytes`.

    Attributes:
        name, precision, exact, chunk_rows, row_bytes: as of `NearestSearch`.
    """

    name = "tensorflow"

    def __init__(self, k, dim, precision="float32", memory_bytes=None):
        # Offsets are a part of the product, or added to scores: whichever there are fewer of.
        self._product = ScoreProduct(dim, precision, is_longer=dim <= k)
        self.precision = precision
        self.exact = self._product.exact
        self.row_bytes = self._product.row_bytes
        memory_bytes = memory_bytes or transit_bytes(False)
        shape = tile_shape(k, dim, self._product.dtype.size, memory_bytes)
        self.chunk_rows, self._tile = shape.rows, shape.centroids

    def load(self, centroids, used=None, shift=None, level=0.0) -> None:
        """As `NearestSearch.load`."""
        centroids = np.asarray(centroids, np.float32)
        self._tiles = self._comparison = None  # frees their memory before the next take theirs
        self._tiles = self._product.tiles(centroids, self._tile, used, shift, level)
        norms = np.concatenate([tile.half_squared_norms for tile in self._tiles])
        self._comparison = Comparison(norms, shift, functools.partial(products, centroids, shift))

    def prepared(self, rows, norms=None) -> tf.Tensor:
        """As `NearestSearch.prepared`."""
        return self._product.rows(rows, norms)

    def __call__(self, x) -> tuple[np.ndarray, np.ndarray]:
        """As `NearestSearch.__call__`; equal scores go to the lowest index."""
        label, best = None, None
        for tile in self._tiles:
            scores = tf.matmul(x, tile.factor)
            if not self._product.is_longer:
                scores = tf.cast(scores, tf.float32) + tile.offsets
            winner, score = _winners(scores)
            if label is None:
                label, best = winner, score
            else:
                label = np.where(score > best, tile.start + winner, label)
                best = np.maximum(best, score)
        return label.astype(np.int32), best

    def nearer(self, rows, labels, than) -> np.ndarray:
        """As `NearestSearch.nearer`."""
        return self._comparison.nearer(rows, labels, than)


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
