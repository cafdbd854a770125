"""Opens a `.npy` file with a matrix by its header; says what would work for any other file.

file = NpyFile.open("x.npy")
file.rows, file.dim, file.open_rows().read(0, 10)
"""

import dataclasses
import os
import stat

import numpy as np

from dc_tf.clustering.store.column_file import ColumnFile
from dc_tf.clustering.store.foreign_file import describe
from dc_tf.clustering.store.points import BFLOAT16, DTYPES, conversion
from dc_tf.clustering.store.row_file import RowFile
from dc_tf.errors import DataError

_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclasses.dataclass(frozen=True)
class NpyFile:
    """A `.npy` file with a matrix of floating-point numbers, one point a row.

    Attributes:
        path: of the file.
        rows, dim: shape of the matrix.
        dtype: of its numbers, in the file's byte order.
        offset: bytes before the first row.
        by_column: whether columns follow one another, not rows (Fortran order).
    """

    path: str
    rows: int
    dim: int
    dtype: np.dtype
    offset: int
    by_column: bool = False

    @classmethod
    def open(cls, path: str, start: int = 0, size: int | None = None) -> "NpyFile":
        """Reads and checks the header.

        Args:
            path: of the file.
            start: where the array begins in it, in bytes.
            size: bytes of the array with its header; None: the rest of the file.

        Raises:
            DataError: not a complete `.npy` file of the right kind; says what would work.
        """
        shape, is_fortran, dtype, offset, end = _header(path, start)
        end = end if size is None else start + size
        _check_shape(path, shape, dtype)
        needed = offset + shape[0] * shape[1] * dtype.itemsize
        if end < needed:
            raise DataError(
                f"{path}: {_kind(shape, dtype)} takes {needed} bytes and the file has {end}; it "
                "is not complete, write or copy it again."
            )
        return cls(path, *shape, dtype, offset, is_fortran and min(shape) > 1)

    def open_rows(self) -> RowFile | ColumnFile:
        """The rows themselves; opened for each use, since there may be thousands of files.

        Raises:
            DataError: the file is gone.
        """
        kind = ColumnFile if self.by_column else RowFile
        return kind(self.path, self.offset, self.rows, self.dim, self.dtype)


def _header(path, start):
    """(shape, is_fortran, dtype, offset of the data, bytes of the file)."""
    try:
        about = os.stat(path)
        if stat.S_ISDIR(about.st_mode):
            raise DataError(f"{path} is a folder; use '{path}/*.npy' for the files in it.")
        if not stat.S_ISREG(about.st_mode):  # Opening a pipe would wait for its other end.
            raise DataError(f"{path} is not a regular file; rows are read from anywhere in it.")
        if not about.st_size:
            raise DataError(f"{path} is empty (0 bytes); write it again.")
        with open(path, "rb") as file:
            file.seek(start)
            version = np.lib.format.read_magic(file)
            # Later versions are for names of fields in other alphabets; there are no fields here.
            shape, is_fortran, dtype = _READERS[version](file)
            return shape, is_fortran, _stored(dtype), file.tell(), about.st_size
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; give a file that exists and that this user "
            "may read."
        ) from error
    except (ValueError, KeyError) as error:
        raise DataError(f"{path} is {describe(path)}.") from error


def _stored(dtype):
    """NumPy writes bfloat16, which it does not know, as two bytes of anything."""
    return BFLOAT16 if dtype == np.dtype("V2") else dtype


def _check_shape(path, shape, dtype):
    kind = _kind(shape, dtype)
    if dtype.hasobject:
        raise DataError(
            f"{path}: {kind}, pickled Python objects, which are not opened; save a matrix of "
            "numbers, np.stack(x).astype(np.float32)."
        )
    if dtype.newbyteorder("=") not in DTYPES:
        raise DataError(
            f"{path}: {kind}; rows are float16, bfloat16, float32 or float64: save "
            f"{conversion(dtype)}."
        )
    if len(shape) != 2 or shape[1] == 0:
        advice = {
            0: "",
            1: ": save x[None] for one row, x[:, None] for rows of one number",
            2: " with at least one number a row",
        }.get(len(shape), ": save x.reshape(len(x), -1)")
        raise DataError(f"{path}: {kind}; rows need a matrix (rows, dim){advice}.")


def _kind(shape, dtype):
    return f"{dtype.name} of shape {tuple(shape)}"
