"""Rows of equal length in a file, read and written by position, by any number of threads.

The file is read, not memory-mapped: mapped pages count as memory of the process, and a truncated
file would kill it. From the page cache, sequential rows are read at 6 GB/s and every fourth row of
8 KB at 2 GB/s: half and a third of a mapping's rate on 2 busy cores, but far more than k-means
consumes there (`benchmarks/feature_store.py`). From disk, reading was up to three times as fast.

    file = RowFile.create("rows.npy", rows=1000, dim=64, dtype=np.dtype(np.float16))
    file.write(0, rows)
    file.read(0, 10), file.take(np.array([3, 500, 999]))
"""

import errno
import os
import shutil
import weakref

import numpy as np
from absl import logging

from dc_tf.clustering.aligned import aligned_empty
from dc_tf.errors import DataError

# Rows that are wanted from so many bytes are read in one piece if they are dense,
_WINDOW_BYTES = 1 << 20
# that is, if there is one in so many bytes: they are read in the time of a system call.
_BYTES_PER_CALL = 16 << 10
# A disk, a quota, or a file of the largest size that is allowed.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RowFile:
    """The rows of a file.

    Args:
        path: of a file that exists.
        offset: bytes before the first row.
        rows, dim, dtype: of the matrix that follows.
        writable: open for writing as well.

    Raises:
        DataError: if it cannot be opened.
    """

    def __init__(self, path, offset, rows, dim, dtype, writable=False):
        self.path = path
        self.rows = rows
        self.dim = dim
        self.dtype = dtype
        self._offset = offset
        self._row_bytes = dim * dtype.itemsize
        try:
            self._descriptor = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        except OSError as error:
            raise DataError(
                f"{path} cannot be opened: {error.strerror}; give a file that exists and that this "
                "user may read."
            ) from error
        weakref.finalize(self, os.close, self._descriptor)

    @classmethod
    def create(cls, path, rows, dim, dtype) -> "RowFile":
        """A new `.npy` file of zeros with all its disk space reserved.

        Raises:
            DataError: the disk has too little space.
        """
        size = rows * dim * dtype.itemsize
        _check_space(path, size)
        with open(path, "wb") as file:
            descr = np.lib.format.dtype_to_descr(dtype)
            header = {"descr": descr, "fortran_order": False, "shape": (rows, dim)}
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            offset = file.tell()
            _reserve(file, offset + size)
        return cls(path, offset, rows, dim, dtype, writable=True)

    def read(self, start, stop) -> np.ndarray:
        """(stop - start, dim) of the file's dtype.

        Raises:
            DataError: the disk fails, or the file was truncated.
        """
        rows = aligned_empty((stop - start, self.dim), self.dtype)  # a tensor without a copy
        self._fill(start, _bytes_of(rows))
        return rows

    def take(self, positions) -> np.ndarray:
        """(n, dim) of the file's dtype: the rows at `positions` (n,), in that order.

        Raises:
            DataError: as `read`.
        """
        positions = np.asarray(positions, np.int64)
        if (np.diff(positions) < 0).any():
            order = np.argsort(positions, kind="stable")
            return self.take(positions[order])[np.argsort(order)]
        rows = np.empty((len(positions), self.dim), self.dtype)
        window = positions // max(1, _WINDOW_BYTES // self._row_bytes)
        cuts = np.flatnonzero(np.diff(window)) + 1
        for part in np.split(np.arange(len(positions)), cuts) if len(positions) else ():
            self._take_window(positions[part], rows[part[0] : part[-1] + 1])
        return rows

    def write(self, start, rows) -> None:
        """Writes (n, dim) rows of the file's dtype from `start` on.

        Raises:
            DataError: the disk is full or fails.
        """
        left = _bytes_of(np.ascontiguousarray(rows))
        offset = self._offset + start * self._row_bytes
        try:
            while left:
                count = os.pwrite(self._descriptor, left, offset)
                left, offset = left[count:], offset + count
        except OSError as error:
            raise self._unwritable(error) from error

    def sync(self) -> None:
        """Makes what is written durable.

        Raises:
            DataError: the disk fails.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._unwritable(error) from error

    def _take_window(self, positions, out):
        first, last = int(positions[0]), int(positions[-1])
        if (last - first + 1) * self._row_bytes <= _BYTES_PER_CALL * len(positions):
            np.take(self.read(first, last + 1), positions - first, axis=0, out=out, mode="clip")
            return
        buffer, size = _bytes_of(out), self._row_bytes
        for place, row in enumerate(positions.tolist()):
            self._fill(row, buffer[place * size : (place + 1) * size])

    def _fill(self, row, left):
        """Reads from `row` on into a buffer of bytes."""
        offset = self._offset + row * self._row_bytes
        while left:
            try:
                count = os.preadv(self._descriptor, [left], offset)
            except OSError as error:
                raise DataError(
                    f"{self.path} cannot be read: {error.strerror}; check the disk, or copy the "
                    "file to another one."
                ) from error
            if not count:
                raise DataError(
                    f"{self.path} ends at byte {offset} before its last row; it was "
                    "truncated meanwhile, write or copy it again."
                )
            left, offset = left[count:], offset + count

    def _unwritable(self, error):
        return DataError(
            f"{self.path} cannot be written: {error.strerror}; free space, or use another disk."
        )


def _check_space(path, needed):
    if needed > shutil.disk_usage(os.path.dirname(path)).free:
        raise _no_space(path, needed, "its disk is too full")


def _reserve(file, size):
    """Takes the blocks of a file now, so that a full disk shows before hours of work."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno in _FULL:
            raise _no_space(file.name, size, error.strerror) from error
        logging.warning("%s: space is not reserved: %s", file.name, error.strerror)
        os.ftruncate(file.fileno(), size)


def _no_space(path, needed, reason):
    free = shutil.disk_usage(os.path.dirname(path)).free
    return DataError(
        f"{path} needs {_size(needed)} and {_size(free)} are free ({reason}); use another folder, "
        "more workers, fewer components, or two bytes a number."
    )


def _size(count) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _bytes_of(rows) -> memoryview:
    """The bytes of a contiguous array of any dtype."""
    return memoryview(rows.reshape(-1).view(np.uint8))
