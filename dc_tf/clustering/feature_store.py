"""Feature rows of one worker on its own disk, larger than memory.

A folder with `rows.npy`, readable by anyone with NumPy, and `store.json`. Rows are written in
order while they are extracted and read in chunks; `flush` makes what is written last through a
crash, and says how far that is, so an extraction goes on where it stopped.

    store = FeatureStore.create(path, rows=1000, dim=64)
    store.write(0, features)
    store.flush()
    for start, block in FeatureStore.open(path).chunks(4096): ...
"""

import concurrent.futures
import errno
import json
import mmap
import os
import shutil

import numpy as np
from absl import logging

from dc_tf.errors import ConfigError, DataError

_ROWS = "rows.npy"
_ABOUT = "store.json"
_DTYPES = ("float16", "float32")
# Pages of the file count as memory of the process until they are given back.
_MAPPED_BYTES = 64 << 20


class FeatureStore:
    """`(rows, dim)` features, in float16 or float32.

    Use `create` or `open`.

    Attributes:
        path: the folder.
        rows: how many there are to be.
        dim: components of a row.
        first_row: row id of the first one, in the whole data set.
        dtype: of the file.
        written: rows [0, written) hold features; the extraction is complete at `rows`.
        clipped: values beyond float16's range that were written as its largest.
    """

    def __init__(self, path, array, first_row, written, clipped):
        self.path = path
        self.rows, self.dim = array.shape
        self.first_row = first_row
        self.dtype = array.dtype.name
        self.written = written
        self.clipped = clipped
        self._map = array._mmap
        self._array = np.asarray(array)
        self._touched = 0

    @classmethod
    def create(cls, path, rows, dim, first_row=0, dtype="float16") -> "FeatureStore":
        """Makes an empty store in the place of any at `path`, with all its disk space reserved.

        Raises:
            ConfigError: for a dtype that is not float16 or float32, or an impossible size.
            DataError: if the disk has too little space.
        """
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype={dtype!r}; a feature store holds {' or '.join(_DTYPES)}.")
        if rows < 0 or dim < 1:
            raise ConfigError(f"rows={rows}, dim={dim}: rows must be at least 0 and dim 1.")
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        file = os.path.join(path, _ROWS)
        _check_space(path, rows * dim * np.dtype(dtype).itemsize)
        array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(rows, dim))
        _reserve(file)
        store = cls(path, array, first_row, written=0, clipped=0)
        store.flush()
        return store

    @classmethod
    def open(cls, path) -> "FeatureStore":
        """The store at `path`, complete or not; see `written`.

        Raises:
            DataError: if there is none.
        """
        try:
            with open(os.path.join(path, _ABOUT), encoding="utf-8") as file:
                about = json.load(file)
            array = np.load(os.path.join(path, _ROWS), mmap_mode="r+", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} has no feature store that can be read: {error}") from error
        return cls(path, array, **about)

    def write(self, start, array):
        """Writes rows [start, start + n); they follow what is written, or replace some of it.

        Values beyond the range of float16 are clipped to it and counted.

        Args:
            start: at most `written`.
            array: (n, dim) floating.

        Raises:
            DataError: for a row that is not finite, or does not fit in here.
        """
        array = np.asarray(array)
        stop = start + len(array)
        if array.shape[1:] != (self.dim,) or not 0 <= start <= self.written or stop > self.rows:
            raise DataError(
                f"{array.shape} at row {start} does not fit in {self.path}: it has {self.rows} "
                f"rows of {self.dim}, of which {self.written} are written."
            )
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if bad.size:
            raise DataError(f"features of row {self.first_row + start + bad[0]} are not finite.")
        self._array[start:stop] = self._clip(array)
        self.written = max(self.written, stop)
        self._touch(stop - start)

    def flush(self):
        """Makes rows [0, written) durable, then the note that says so."""
        self._map.flush()
        about = {"first_row": self.first_row, "written": self.written, "clipped": self.clipped}
        aside = os.path.join(self.path, _ABOUT + ".tmp")
        with open(aside, "w", encoding="utf-8") as file:
            json.dump(about, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, os.path.join(self.path, _ABOUT))

    def forget(self):
        """Marks all rows as not written, before they are written anew."""
        self.written = 0
        self.flush()

    def read(self, start, stop) -> np.ndarray:
        """(stop - start, dim) float32."""
        return self._block(start, stop).astype(np.float32)

    def take(self, positions) -> np.ndarray:
        """(n, dim) float32: the rows at `positions` (n,), counted from this store's first."""
        self.check_complete()
        self._touch(len(positions))
        return self._array[positions].astype(np.float32)

    def chunks(self, chunk_rows):
        """(start, (n, dim) array of the file's dtype) in order; the next is read meanwhile."""
        self.check_complete()
        with concurrent.futures.ThreadPoolExecutor(1) as reader:
            ahead = None
            for start in range(0, self.rows, chunk_rows):
                stop = start + chunk_rows
                block = ahead.result() if ahead else self._block(start, stop)
                ahead = reader.submit(self._block, stop, stop + chunk_rows)
                yield start, block

    def check_complete(self):
        """DataError if rows are missing."""
        if self.written < self.rows:
            raise DataError(
                f"{self.path} has {self.written} of {self.rows} rows; finish the extraction first."
            )

    def _block(self, start, stop):
        block = np.array(self._array[start:stop])
        self._touch(len(block))
        return block

    def _clip(self, array):
        if self.dtype != "float16":
            return array
        limit = np.finfo(np.float16).max
        beyond = int(np.count_nonzero(np.abs(array) > limit))
        if not beyond:
            return array
        if not self.clipped:
            logging.warning("%s: features beyond %s are clipped to it.", self.path, limit)
        self.clipped += beyond
        return np.clip(array, -limit, limit)

    def _touch(self, rows):
        self._touched += rows * self._array.strides[0]
        if self._touched > _MAPPED_BYTES:
            # The file keeps what was written; only this process lets go of the pages.
            self._map.madvise(mmap.MADV_DONTNEED)
            self._touched = 0


def _check_space(path, needed):
    free = shutil.disk_usage(path).free
    if needed > free:
        raise DataError(
            f"{path} needs {needed / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB free; "
            "use another folder, more workers, or fewer components."
        )


def _reserve(file):
    """Takes the blocks of a sparse file now: a full disk later would kill the process."""
    with open(file, "r+b") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, os.fstat(handle.fileno()).st_size)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise DataError(f"no space for {file}: {error.strerror}.") from error
            logging.warning("%s: space is not reserved: %s", file, error.strerror)
