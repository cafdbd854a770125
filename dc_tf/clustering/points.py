"""What k-means reads: this worker's rows, in chunks or by position.

A source of points has `rows`, `dim`, `chunks(chunk_rows)` and `take(positions)`. A
`FeatureStore` is one; an array becomes one; a `Subset` is some rows of another, so a problem
inside a problem needs no copy of its rows.

    for start, block in as_points(x).chunks(4096): ...
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from dc_tf.errors import DataError


class Points(Protocol):
    """Rows of one worker.

    Attributes:
        rows: how many; may be 0.
        dim: components of a row.
    """

    rows: int
    dim: int

    def chunks(self, chunk_rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """(first position, (n, dim) floating block), in order, n <= chunk_rows."""

    def take(self, positions) -> np.ndarray:
        """(n, dim) float32: the rows at `positions` (n,) int64, in that order."""


class ArrayPoints:
    """The rows of a `(rows, dim)` floating array, in memory or memory-mapped."""

    def __init__(self, array):
        if array.ndim != 2 or array.shape[1] == 0:
            raise DataError(
                f"points have shape {array.shape}; they need to be a matrix, one row a point."
            )
        if not np.issubdtype(array.dtype, np.floating):
            raise DataError(
                f"points have dtype {array.dtype}; convert them to float16, float32 or float64."
            )
        self._array = array
        self.rows, self.dim = array.shape

    def chunks(self, chunk_rows):
        for start in range(0, self.rows, chunk_rows):
            yield start, self._array[start : start + chunk_rows]

    def take(self, positions):
        return np.asarray(self._array[positions], np.float32)


class Subset:
    """Some rows of other points, read from where they are.

    Args:
        points: the source.
        positions: (rows,) int64 positions in it; ascending ones read the disk in order.
    """

    def __init__(self, points: Points, positions):
        self._points = points
        self._positions = positions
        self.rows = len(positions)
        self.dim = points.dim

    def chunks(self, chunk_rows):
        for start in range(0, self.rows, chunk_rows):
            yield start, self._points.take(self._positions[start : start + chunk_rows])

    def take(self, positions):
        return self._points.take(self._positions[positions])


def as_points(source) -> Points:
    """The source itself if it is one, or a view of an array."""
    return ArrayPoints(source) if isinstance(source, np.ndarray) else source
