"""Rows of a matrix that is stored column by column (Fortran order), read by position.

A row lies in as many pieces as it has components, so a block of rows takes a system call for each
component, and scattered rows more: slower than `row_file.RowFile`, with the same result.

    file = ColumnFile("x.npy", offset=128, rows=1000, dim=64, dtype=np.dtype(np.float32))
    file.read(0, 10), file.take(np.array([3, 500, 999]))
"""

import numpy as np

from dc_tf.clustering.store.row_file import RowFile


class ColumnFile:
    """The rows of a file, read only; any number of threads may read.

    Args:
        path: of a file that exists.
        offset: bytes before the first column.
        rows, dim, dtype: of the matrix that follows.

    Raises:
        DataError: if it cannot be opened.
    """

    def __init__(self, path, offset, rows, dim, dtype):
        self.rows = rows
        self.dim = dim
        self.dtype = dtype
        self._numbers = RowFile(path, offset, rows * dim, 1, dtype)

    def read(self, start, stop) -> np.ndarray:
        """(stop - start, dim) of the file's dtype; errors as of `RowFile.read`."""
        return self._rows(lambda first: self._numbers.read(first + start, first + stop))

    def take(self, positions) -> np.ndarray:
        """(n, dim) of the file's dtype: the rows at `positions` (n,), in that order."""
        positions = np.asarray(positions, np.int64)
        return self._rows(lambda first: self._numbers.take(first + positions))

    def _rows(self, column):
        """Joins what `column` reads of each column, by the position of its first number."""
        columns = [column(i * self.rows)[:, 0] for i in range(self.dim)]
        return np.stack(columns, axis=1)
