"""Feature rows of one worker on its own disk, larger than memory.

A folder with `rows.npy`, which `np.load` reads, and `store.json`, which describes it. Extraction
writes rows in order; readers take blocks or positions. `flush` makes the written rows durable and
records their number, from which an interrupted extraction resumes. Memory does not grow with the
number of rows.

    store = FeatureStore.create(path, rows=1000, dim=64)
    store.write(0, features)
    store.flush()
    for start, block in chunks(FeatureStore.open(path), 4096): ...

NumPy has no bfloat16 and reads such a file as `V2`, two bytes a value;
`np.load(path).view(ml_dtypes.bfloat16)` returns the values.
"""

import json
import os
import shutil

import numpy as np
from absl import logging

from dc_tf.atomic import staged_file, write_file
from dc_tf.clustering.store.npy_file import NpyFile
from dc_tf.clustering.store.points import BFLOAT16, DTYPES
from dc_tf.clustering.store.row_file import RowFile
from dc_tf.errors import ConfigError, DataError

_ROWS = "rows.npy"
_METADATA = "store.json"
STORED_DTYPES = {dtype.name: dtype for dtype in (np.dtype("f2"), BFLOAT16, np.dtype("f4"))}
# Folder of the rows that `map_in_place` writes next, inside the store's.
STAGING = "mapping"
# Attributes that the metadata hold.
_RECORDED = ("first_row", "written", "clipped", "made_by", "mapped")


class FeatureStore:
    """`(rows, dim)` features, in float16, bfloat16 or float32; a `points.Points`.

    Use `create` or `open`. Any number of threads may read.

    Attributes:
        path: the folder.
        file: the `RowFile` with the rows, whatever state they are in.
        rows: number of rows, written or not.
        dim: components of a row.
        dtype: of the file.
        first_row: row id of the first one, in the whole data set.
        written: rows [0, written) hold features; the extraction is complete at `rows`.
        clipped: values beyond the range of `dtype` that were written as its largest.
        made_by: name of the map that was applied to the rows, "" for extracted features.
        mapped: None, or while the map is being applied in place, to how many rows it was.
    """

    def __init__(self, path, file, first_row, written=0, clipped=0, made_by="", mapped=None):
        self.path = path
        self.file = file
        self.rows, self.dim, self.dtype = file.rows, file.dim, file.dtype
        self.first_row = first_row
        self.written = written
        self.clipped = clipped
        self.made_by = made_by
        self.mapped = mapped

    @classmethod
    def create(cls, path, rows, dim, first_row=0, dtype="float16", made_by="") -> "FeatureStore":
        """Makes an empty store, replaces any at `path`, and reserves all its disk space.

        Raises:
            ConfigError: for a dtype that is not stored, an impossible size, or a folder that holds
                something else.
            DataError: if the disk has too little space; no store is left then.
        """
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
        if name not in STORED_DTYPES:
            names = ", ".join(STORED_DTYPES)
            raise ConfigError(f"dtype={name!r}; a feature store holds one of {names}.")
        if rows < 0 or dim < 1:
            raise ConfigError(f"rows={rows}, dim={dim}: rows must be at least 0 and dim 1.")
        _remove(path)
        try:
            os.makedirs(path, exist_ok=True)
            file = RowFile.create(os.path.join(path, _ROWS), rows, dim, STORED_DTYPES[name])
            store = cls(path, file, first_row, made_by=made_by)
            store.flush()
        except BaseException as error:
            shutil.rmtree(path, ignore_errors=True)
            if isinstance(error, OSError):
                raise DataError(
                    f"no feature store can be made at {path}: {error.strerror}; use a folder that "
                    "this user may write, with space left."
                ) from error
            raise
        return store

    @classmethod
    def open(cls, path) -> "FeatureStore":
        """The store at `path`, complete or not; see `written`.

        Raises:
            DataError: if there is none, or it is corrupt.
        """
        metadata = _read_metadata(path)
        header = NpyFile.open(os.path.join(path, _ROWS))
        found, expected = (
            (header.rows, header.dim, header.dtype.name),
            tuple(metadata.pop("matrix")),
        )
        if found != expected or header.by_column:
            raise DataError(
                f"{path}: {_METADATA} describes {expected} and {_ROWS} holds {found} (rows, dim, "
                "dtype); they do not belong together, extract the features again."
            )
        file = RowFile(header.path, header.offset, *found[:2], header.dtype, writable=True)
        return cls(path, file, **metadata)

    def write(self, start, rows) -> np.ndarray:
        """Writes rows [start, start + n); they follow what is written, or replace some of it.

        Values beyond the range of the dtype are clipped to it and counted.

        Args:
            start: at most `written`.
            rows: (n, dim) floating.

        Returns:
            (n, dim) the rows as they are stored, of the store's dtype.

        Raises:
            DataError: for a row that is not finite, or does not fit in here; a full disk.
        """
        rows = np.asarray(rows)
        if rows.shape[1:] != (self.dim,) or not 0 <= start <= min(
            self.written, self.rows - len(rows)
        ):
            raise DataError(
                f"{rows.shape} at row {start} does not fit in {self.path}: it has {self.rows} "
                f"rows of {self.dim}, of which {self.written} are written."
            )
        self._check_not_half_mapped()
        stored = self._converted(start, rows)
        self.file.write(start, stored)
        self.written = max(self.written, start + len(stored))
        return stored

    def flush(self) -> None:
        """Makes rows [0, written) durable, then the metadata that record it.

        Raises:
            DataError: the disk fails.
        """
        self.file.sync()
        metadata = {name: getattr(self, name) for name in _RECORDED}
        metadata["matrix"] = [self.rows, self.dim, self.dtype.name]
        path = os.path.join(self.path, _METADATA)
        try:
            write_file(path, lambda file: file.write(json.dumps(metadata).encode()))
        except OSError as error:
            raise DataError(
                f"{path} cannot be written: {error.strerror}; free space, or use another disk."
            ) from error

    def forget(self) -> None:
        """Marks all rows as not written, before they are written again."""
        self.written, self.clipped, self.made_by, self.mapped = 0, 0, "", None
        self.flush()

    def read(self, start, stop) -> np.ndarray:
        """(stop - start, dim) of the store's dtype; not all rows need to be written yet.

        Raises:
            DataError: for rows that are not written, or are being mapped; a file cut short.
        """
        self._check_written(start, stop)
        return self.file.read(start, stop)

    def take(self, positions) -> np.ndarray:
        """(n, dim) of the store's dtype: the rows at `positions` (n,), counted from its first.

        Raises:
            DataError: as `read`.
        """
        positions = np.asarray(positions, np.int64)
        if positions.size:
            self._check_written(int(positions.min()), int(positions.max()) + 1)
        return self.file.take(positions)

    def check_complete(self) -> None:
        """DataError if rows are missing, or only a part of them is mapped."""
        self._check_not_half_mapped()
        if self.written < self.rows:
            raise DataError(
                f"{self.path} has {self.written} of {self.rows} rows; finish the extraction first."
            )

    def _check_written(self, start, stop):
        self._check_not_half_mapped()
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"rows {start} to {stop} of {self.path}, which has {self.rows}.")
        if stop > self.written:
            self.check_complete()

    def _check_not_half_mapped(self):
        if self.mapped is not None:
            raise DataError(
                f"{self.path}: {self.mapped} of {self.rows} rows are mapped by {self.made_by}; "
                "finish that (`whiten_store`), or extract the features again."
            )

    def _converted(self, start, rows):
        """The rows in the store's dtype, clipped to its range."""
        if rows.dtype not in DTYPES:
            raise DataError(f"features have dtype {rows.dtype}; they need to be floating.")
        stored, clipped = as_stored(rows, self.dtype)
        bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
        if bad.size:
            raise DataError(f"features of row {self.first_row + start + bad[0]} are not finite.")
        if clipped and not self.clipped:
            logging.warning("%s: features beyond %s are clipped to it.", self.path, self.dtype)
        self.clipped += clipped
        return stored


def as_stored(rows, dtype) -> tuple[np.ndarray, int]:
    """Features as a file of `dtype` holds them.

    Args:
        rows: floating, of any shape.
        dtype: of the file.

    Returns:
        the same shape in `dtype`, finite values beyond its range as its largest; and their number.
    """
    with np.errstate(over="ignore"):
        stored = rows.astype(dtype, copy=False)
    beyond = ~np.isfinite(stored)
    if not beyond.any():
        return stored, 0
    beyond &= np.isfinite(rows)
    stored[beyond] = np.copysign(_largest(stored.dtype), rows[beyond]).astype(dtype)
    return stored, int(np.count_nonzero(beyond))


def _read_metadata(path):
    """The content of `store.json`, checked."""
    try:
        with open(os.path.join(path, _METADATA), encoding="utf-8") as file:
            metadata = json.load(file)
        rows, _, dtype = metadata["matrix"]
        counts = [
            metadata["first_row"],
            metadata["written"],
            metadata["clipped"],
            metadata["mapped"] or 0,
        ]
        valid = set(metadata) == {"matrix", *_RECORDED} and isinstance(metadata["made_by"], str)
        if not (
            valid and dtype in STORED_DTYPES and all(type(n) is int and n >= 0 for n in counts)
        ):
            raise ValueError(f"it holds {metadata}")
        if max(metadata["written"], metadata["mapped"] or 0) > rows:
            raise ValueError(f"it describes more than {rows} rows")
        return metadata
    except OSError as error:
        raise DataError(
            f"{path} has no feature store: {error.strerror}; extract the features again."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: {_METADATA} is corrupt, extract the features again ({error})."
        ) from error


def _remove(path):
    """Removes the store at `path`, if there is one, and nothing else."""
    if os.path.isdir(path):
        others = set(os.listdir(path)) - {_ROWS, _METADATA, staged_file(_METADATA), STAGING}
        if others:
            raise ConfigError(
                f"{path} holds {min(others)}, which is not part of a feature store; name another "
                "folder."
            )
        shutil.rmtree(path)
    elif os.path.lexists(path):
        raise ConfigError(f"{path} is not a folder; name one for the feature store.")


def _largest(dtype):
    """The largest finite number of a dtype, float64; NumPy does not know bfloat16's."""
    return (2.0 - 2.0**-7) * 2.0**127 if dtype == BFLOAT16 else float(np.finfo(dtype).max)
