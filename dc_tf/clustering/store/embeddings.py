"""Rows of files as points for k-means: `.npy`, Parquet and others; one or many, larger than memory.

Opening checks the headers only; rows are read on demand, so a worker reads its own part. Several
files form one matrix, in the order of the files.

    embeddings = Embeddings.open(find_files("shards/*.npy"))
    result = kmeans(embeddings, k=1000)
"""

import bisect
import collections
import glob
import os

import numpy as np

from dc_tf.clustering.store.matrix_file import open_matrix
from dc_tf.errors import DataError


def find_files(text: str) -> list[str]:
    """The files that a user's `a.npy`, `shards/*.npy` or `a.npy,b.npy` means, in row order.

    What a pattern matches comes in sorted order; what stands between commas, in the order given.

    Raises:
        DataError: nothing matches, or a file is named twice.
    """
    if os.path.exists(text):  # Whatever characters are in its name.
        return [text]
    found = [path for part in text.split(",") for path in _matches(part.strip())]
    path, times = collections.Counter(found).most_common(1)[0]
    if times > 1:
        raise DataError(
            f"{text!r} names {path} {times} times; its rows would count that many times."
        )
    return found


def _matches(pattern):
    if "://" in pattern:
        raise DataError(
            f"{pattern!r} is not on a file system; mount the bucket on all workers (gcsfuse, "
            "s3fs), or copy the files."
        )
    path = os.path.expanduser(pattern)
    matches = [path] if _is_there(path) else sorted(glob.glob(path, recursive=True))
    if not matches:
        raise DataError(
            f"{pattern!r} matches no file in {os.getcwd()}; give a .npy or Parquet file, a pattern "
            "in quotes such as 'shards/*.npy', or several with commas between them."
        )
    return matches


def _is_there(path):
    """Also true in a folder without permission to search it; opening the file reports that."""
    try:
        os.stat(path)
    except PermissionError:
        return not glob.has_magic(path)
    except (OSError, ValueError):
        return False
    return True


class Embeddings:
    """The rows of some files as one matrix, or a part of it; a `points.Points`.

    Use `open`, then `part` for a worker's share. Safe to use from several threads.

    Attributes:
        files: the `MatrixFile`s.
        first_row: of this part, counted over all files.
        rows: of this part.
        dim: components of a row.
        dtype: of what is read, in this machine's byte order: the files' own, float32 if they
            differ.
    """

    def __init__(self, files, first_row, rows):
        self.files = files
        self.first_row = first_row
        self.rows = rows
        self.dim = files[0].dim
        dtypes = {file.dtype.newbyteorder("=") for file in files}
        self.dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
        self._bounds = np.cumsum([0, *(file.rows for file in files)])

    @classmethod
    def open(cls, paths, column=None) -> "Embeddings":
        """All rows of the files.

        Args:
            paths: of the files.
            column: as of `matrix_file.open_matrix`.

        Raises:
            DataError: a file cannot be used, or their rows differ in length.
        """
        files = tuple(open_matrix(path, column) for path in paths)
        for file in files:
            if file.dim != files[0].dim:
                raise DataError(
                    f"{file.path} has rows of {file.dim} and {files[0].path} rows of "
                    f"{files[0].dim}; embeddings of one kind are clustered together."
                )
        return cls(files, 0, sum(file.rows for file in files))

    def part(self, start, stop) -> "Embeddings":
        """Rows [start, stop) of this part."""
        return Embeddings(self.files, self.first_row + start, stop - start)

    def where(self, row) -> str:
        """The file and place of a row, which is counted over all files."""
        index = self._file_of(row)
        inside = row - int(self._bounds[index])
        return f"row {inside} of {self.files[index].path}"

    def read(self, start, stop) -> np.ndarray:
        """(stop - start, dim) of `dtype`: rows of this part, in order."""
        start, stop = self.first_row + start, self.first_row + stop
        blocks = []
        while start < stop:
            index = self._file_of(start)
            first, end = self._bounds[index : index + 2]
            upto = min(stop, int(end))
            block = self.files[index].open_rows().read(int(start - first), int(upto - first))
            blocks.append(block.astype(self.dtype, copy=False))
            start = upto
        empty = np.empty((0, self.dim), self.dtype)
        return blocks[0] if len(blocks) == 1 else np.concatenate([empty, *blocks])

    def take(self, positions) -> np.ndarray:
        """(n, dim) of `dtype`: the rows at `positions` (n,) of this part."""
        positions = self.first_row + np.asarray(positions, np.int64)
        index = np.searchsorted(self._bounds, positions, side="right") - 1
        rows = np.empty((len(positions), self.dim), self.dtype)
        for owner in np.unique(index):
            mine = np.flatnonzero(index == owner)
            file = self.files[owner].open_rows()
            rows[mine] = file.take(positions[mine] - self._bounds[owner])
        return rows

    def _file_of(self, row) -> int:
        return bisect.bisect_right(self._bounds, row) - 1


class UnitRows:
    """Rows of other points, scaled to length 1 as they are read; a row of zeros stays one.

    Attributes:
        rows, dim: of the points.
        dtype: float64 for points of float64, else float32.
    """

    def __init__(self, points):
        self.rows = points.rows
        self.dim = points.dim
        self.dtype = np.dtype(np.float64 if points.dtype == np.float64 else np.float32)
        self._points = points

    def read(self, start, stop) -> np.ndarray:
        """(stop - start, dim) of `dtype`."""
        return self._scaled(self._points.read(start, stop))

    def take(self, positions) -> np.ndarray:
        """(n, dim) of `dtype`."""
        return self._scaled(self._points.take(positions))

    def _scaled(self, rows):
        rows = rows.astype(self.dtype)
        with np.errstate(invalid="ignore"):  # reported as a row that is not finite
            return self._divided(rows)

    def _divided(self, rows):
        """The rows, changed in place."""
        if self.dtype == np.float64:  # squares of very large and very small numbers are none
            largest = np.abs(rows).max(axis=1, initial=0.0)
            rows /= np.where(largest > 0, largest, 1)[:, None]
        lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
        rows /= np.where(lengths > 0, lengths, 1).astype(self.dtype)[:, None]
        return rows
