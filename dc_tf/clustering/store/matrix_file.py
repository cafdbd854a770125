"""Opens any file with a matrix of floating-point numbers: `.npy`, `.npz`, Parquet, Arrow.

file = open_matrix("x.parquet", column="embedding")
file.rows, file.dim, file.dtype, file.open_rows().read(0, 10)
"""

from typing import Protocol

import numpy as np

from dc_tf.clustering.store.npy_file import NpyFile
from dc_tf.clustering.store.npz_file import is_npz, open_npz
from dc_tf.clustering.store.table_file import TableFile, is_table
from dc_tf.errors import DataError


class Rows(Protocol):
    """Rows that are read by position; safe to use from several threads."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, dim): rows in order."""

    def take(self, positions) -> np.ndarray:
        """(n, dim): the rows at `positions` (n,), in that order."""


class MatrixFile(Protocol):
    """A file whose shape is known and whose rows are read when they are asked for.

    Attributes:
        path: of the file.
        rows, dim: shape of the matrix.
        dtype: of its numbers, in the file's byte order.
    """

    path: str
    rows: int
    dim: int
    dtype: np.dtype

    def open_rows(self) -> Rows:
        """The rows themselves."""


def open_matrix(path: str, column: str | None = None) -> MatrixFile:
    """The matrix of a file, by its first bytes.

    Args:
        path: of the file.
        column: of a table, as of `vector_columns`; of an archive, the name of the array. None: the
            only one that can be meant.

    Raises:
        DataError: it cannot be used; says what would work.
    """
    if is_table(path):
        return TableFile.open(path, column)
    if is_npz(path):
        return open_npz(path, column)
    if column is not None:
        raise DataError(
            f"{path} has no columns; --column is for Parquet and Arrow tables and .npz archives."
        )
    return NpyFile.open(path)
