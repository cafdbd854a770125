"""Rows and centroids as factors of the product that gives their scores.

`argmin |x - c|^2` is `argmax x.c - |c|^2 / 2`. The second term is an offset of each centroid. It
is either part of the product, which makes rows and centroids a little longer, or added later.

    product = ScoreProduct(dim, "bfloat16", is_longer=True)
    tiles = product.tiles(centroids, 2048, used=None, shift=None, level=100.0)
    scores = tf.matmul(product.rows(x), tiles[0].factor)

With bfloat16, products are summed in float32 and the sum is rounded to bfloat16's 8 bits. To keep
the relevant bits, the score is `(level - |x - c|^2) / 2`: with a level near the squared distance
of a row from its centroid, the best scores are close to 0, where bfloat16 has the finest spacing.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from dc_tf.clustering.search.tensors import as_tensor
from dc_tf.kmeans_options import PRECISIONS, choice

# A float32 is the sum of three bfloat16.
_PARTS = 3


@dataclasses.dataclass(frozen=True)
class Tile:
    """Some centroids that follow one another, as one factor.

    Attributes:
        start: index of the first.
        factor: (width, c) tensor of the product's dtype.
        offsets: (c,) float32 tensor, what is added to the products; -inf for an unused centroid.
        half_squared_norms: (c,) float32 array `|c|^2 / 2` of shifted centroids.
    """

    start: int
    factor: tf.Tensor
    offsets: tf.Tensor
    half_squared_norms: np.ndarray


class ScoreProduct:
    """Makes the factors; one for all threads of a search.

    Args:
        dim: components of a row.
        precision: one of `PRECISIONS`.
        is_longer: the product adds the offsets; in bfloat16 it always does.

    Attributes:
        dtype: of the factors.
        exact: whether scores are right to float32 rounding.
        is_longer: as given.
        width: components of a row as a factor.

    Raises:
        ConfigError: for another precision.
    """

    def __init__(self, dim, precision, is_longer):
        self.dtype = tf.as_dtype(choice("precision", precision, PRECISIONS))
        self.exact = self.dtype == tf.float32
        self.is_longer = is_longer or not self.exact
        self.width = dim + self.is_longer * _PARTS * (1 if self.exact else 2)
        self._shift = None

    @property
    def row_bytes(self) -> int:
        """Of a row as a factor."""
        return self.width * self.dtype.size

    def tiles(self, centroids, tile_size, used, shift, level) -> list[Tile]:
        """The centroids, `tile_size` in a tile; `rows` subtracts the same shift from then on.

        Args:
            centroids, used, shift, level: as of `NearestSearch.load`.
            tile_size: centroids of each tile but the last.
        """
        self._shift = shift
        starts = range(0, len(centroids), tile_size)
        parts = [slice(start, start + tile_size) for start in starts]
        return [
            self._tile(part.start, centroids[part], None if used is None else used[part], level)
            for part in parts
        ]

    def rows(self, rows, norms=None) -> tf.Tensor:
        """(n, width) factor of `dtype`.

        Args:
            rows, norms: as of `NearestSearch.prepared`.
        """
        rows = as_tensor(rows)
        x = tf.cast(rows, self.dtype) if self._shift is None else self._shifted(rows)
        if not self.is_longer:
            return x
        columns = [x, tf.ones((len(x), _PARTS), self.dtype)]
        if not self.exact:
            norms = tf.reduce_sum(tf.square(tf.cast(x, tf.float32)), 1) if norms is None else norms
            columns.append(_parts(norms / -2.0, self.dtype))
        return tf.concat(columns, 1)

    def _tile(self, start, centroids, used, level):
        tile = tf.constant(centroids)
        if self._shift is not None:
            tile -= self._shift
        offsets = tf.reduce_sum(tf.square(tile), 1) / -2.0
        half_squared_norms = -offsets.numpy()
        if not self.exact:
            offsets += level / 2.0
        if used is not None:
            offsets = tf.where(used, offsets, -np.inf)
        tile = tf.cast(tile, self.dtype)
        if self.is_longer:
            tile = tf.concat([tile, self._offset_columns(offsets)], 1)
        # Transposed once here, not in each product.
        return Tile(start, tf.transpose(tile), offsets, half_squared_norms)

    def _offset_columns(self, offsets):
        """(c, ...) what the columns that `rows` adds are multiplied with."""
        parts = _parts(offsets, self.dtype)
        return parts if self.exact else tf.concat([parts, tf.ones_like(parts)], 1)

    def _shifted(self, rows):
        return tf.cast(tf.cast(rows, tf.float32) - self._shift, self.dtype)


def _parts(numbers, dtype):
    """(n, _PARTS) whose rows sum to `numbers` (n,) float32, although `dtype` may be shorter."""
    parts = []
    for _ in range(_PARTS):
        parts.append(tf.cast(numbers, dtype))
        rest = numbers - tf.cast(parts[-1], tf.float32)
        numbers = tf.where(tf.math.is_finite(numbers), rest, 0.0)
    return tf.stack(parts, 1)
