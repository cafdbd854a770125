"""The interface through which k-means reads this worker's rows.

Points have `rows`, `dim`, `dtype`, `read(start, stop)` and `take(positions)`, safe to call from any
number of threads. `FeatureStore` implements it, `as_points` wraps an array, and `Subset` selects
rows of other points without a copy, for the second level of a hierarchy.

    points = as_points(x)
    for start, block in chunks(points, 4096): ...
"""

import concurrent.futures
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from ml_dtypes import bfloat16

from dc_tf.errors import DataError

BFLOAT16 = np.dtype(bfloat16)
DTYPES = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64))


class Points(Protocol):
    """Rows of one worker.

    Attributes:
        rows: how many; may be 0.
        dim: components of a row.
        dtype: one of `DTYPES`, that of what is read: as stored, since TensorFlow casts faster.
    """

    rows: int
    dim: int
    dtype: np.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, dim) of `dtype`: rows in order, a copy or a view that stays valid."""

    def take(self, positions) -> np.ndarray:
        """(n, dim) of `dtype`: the rows at `positions` (n,) int64, in that order."""


class ArrayPoints:
    """The rows of a `(rows, dim)` floating array, in memory or memory-mapped.

    Raises:
        DataError: for an array that is not a matrix of one of `DTYPES`.
    """

    def __init__(self, array):
        if array.ndim != 2 or array.shape[1] == 0:
            raise DataError(
                f"points have shape {array.shape}; they need to be a matrix, one row a point: "
                "x[:, None] for points of one number, x.reshape(len(x), -1) for arrays."
            )
        dtype = array.dtype.newbyteorder("=")
        if dtype not in DTYPES:
            names = ", ".join(dtype.name for dtype in DTYPES)
            raise DataError(
                f"points have dtype {array.dtype.name}; convert them to one of {names}: "
                f"{conversion(array.dtype)}."
            )
        self.rows, self.dim = array.shape
        self.dtype = dtype
        self._array = np.asarray(array)

    def read(self, start, stop) -> np.ndarray:
        """As `Points.read`."""
        return self._array[start:stop].astype(self.dtype, copy=False)

    def take(self, positions) -> np.ndarray:
        """As `Points.take`."""
        return np.take(self._array, positions, axis=0).astype(self.dtype, copy=False)


class Subset:
    """Some rows of other points, read from where they are.

    Args:
        points: the source.
        positions: (rows,) int64 positions in it; ascending ones read the disk in order.
    """

    def __init__(self, points: Points, positions):
        self.rows = len(positions)
        self.dim = points.dim
        self.dtype = points.dtype
        self._points = points
        self._positions = positions

    def read(self, start, stop) -> np.ndarray:
        """As `Points.read`."""
        return self._points.take(self._positions[start:stop])

    def take(self, positions) -> np.ndarray:
        """As `Points.take`."""
        return self._points.take(self._positions[positions])


class Block:
    """Consecutive rows of other points, read from where they are.

    Args:
        points: the source.
        first, stop: the rows, as positions in it.
    """

    def __init__(self, points: Points, first, stop):
        self.rows, self.dim, self.dtype = stop - first, points.dim, points.dtype
        self._points, self._first = points, first

    def read(self, start, stop) -> np.ndarray:
        """As `Points.read`."""
        return self._points.read(self._first + start, self._first + stop)

    def take(self, positions) -> np.ndarray:
        """As `Points.take`."""
        return self._points.take(self._first + positions)


def as_points(source) -> Points:
    """The source itself if it is one, or the rows of what NumPy takes for an array.

    Raises:
        DataError: for anything else, and as `ArrayPoints`.
    """
    if callable(getattr(source, "read", None)):
        return source
    if np.ma.is_masked(source):
        raise DataError("points have masked values; leave such rows out, or fill them.")
    try:
        array = np.asarray(source)
    except (ValueError, TypeError) as error:  # lists of rows that differ in length
        raise DataError(
            f"points are no array of numbers ({error}); give rows of one length."
        ) from error
    if array is not source and array.dtype.kind in "OSU":
        raise DataError(
            f"points are a {type(source).__name__}, which is no array of numbers; give a (rows, "
            "dim) array, as np.load(path, mmap_mode='r') opens one, or points of `embeddings`."
        )
    return ArrayPoints(array)


def conversion(dtype) -> str:
    """The expression that makes an array x of a numeric dtype one of `DTYPES`."""
    if dtype.kind == "c":
        return "np.concatenate([x.real, x.imag], axis=1).astype(np.float32)"
    if dtype.names:
        return "np.lib.recfunctions.structured_to_unstructured(x).astype(np.float32)"
    bits = "; bfloat16 as uint16, x.view(ml_dtypes.bfloat16)" if dtype == np.uint16 else ""
    return f"x.astype(np.float32){bits}"


def chunks(points: Points, chunk_rows, start=0, stop=None) -> Iterator[tuple[int, np.ndarray]]:
    """Rows [start, stop), all by default, in order; the next block is read meanwhile.

    Yields:
        (first position, (n, dim) block of the points' dtype), n <= chunk_rows.
    """
    stop = points.rows if stop is None else stop
    with concurrent.futures.ThreadPoolExecutor(1, "chunks") as reader:
        ahead = None
        for first in range(start, stop, chunk_rows):
            now = ahead
            ahead = reader.submit(points.read, first, min(first + chunk_rows, stop))
            if now:
                yield first - chunk_rows, now.result()
        if ahead:
            yield first, ahead.result()
