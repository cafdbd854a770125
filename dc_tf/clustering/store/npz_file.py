"""A matrix in a `.npz` archive: read by position where it is stored as it is, else as a whole.

file = open_npz("x.npz")                # the only array, or open_npz("x.npz", "embeddings")
file.rows, file.dim, file.open_rows().read(0, 10)
"""

import functools
import struct
import zipfile

import numpy as np

from dc_tf.clustering.store.npy_file import NpyFile
from dc_tf.clustering.store.points import ArrayPoints
from dc_tf.errors import DataError
from dc_tf.memory import free_memory, size

# A local header of a zip file: 26 bytes, then the lengths of name and extra field.
_LOCAL_HEADER = struct.Struct("<26xHH")


def is_npz(path: str) -> bool:
    """Whether a file is a zip archive with `.npy` members and no others."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def open_npz(path: str, name: str | None = None) -> "NpyFile | CompressedMatrix":
    """The matrix of an archive.

    Args:
        path: of the archive.
        name: of the array; None: the only one with rows of floating-point numbers.

    Raises:
        DataError: there is no such array, or it is no matrix of floating-point numbers.
    """
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if name is None:
        name = _only_matrix(path, members)
    if name not in members:
        raise DataError(f"{path} has no array {name}; it has {', '.join(members)}.")
    return _open_member(path, name, members[name])


def _only_matrix(path, members):
    usable = []
    for name, info in members.items():
        try:
            _open_member(path, name, info)
        except DataError:
            continue
        usable.append(name)
    if len(usable) == 1:
        return usable[0]
    if len(members) == 1:
        return next(iter(members))  # opening it says why it cannot be used
    if usable:
        raise DataError(f"{path} has the matrices {', '.join(usable)}; name one with --column.")
    raise DataError(f"{path} has no matrix of floating-point numbers among {', '.join(members)}.")


def _open_member(path, name, info):
    if info.compress_type != zipfile.ZIP_STORED:
        return CompressedMatrix(path, name, info.file_size)
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        skipped = sum(_LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size)))
    start = info.header_offset + _LOCAL_HEADER.size + skipped
    return NpyFile.open(path, start, info.file_size)


class CompressedMatrix:
    """A matrix that `np.savez_compressed` has written; held in memory once a row is read.

    Attributes:
        path: of the archive.
        rows, dim, dtype: of the matrix.

    Raises:
        DataError: it is no matrix of floating-point numbers, or memory is too small for it.
    """

    def __init__(self, path, name, nbytes):
        self.path = path
        self._name = name
        self._nbytes = nbytes
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            read = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
            shape, _, self.dtype = read(member)
        if len(shape) != 2 or not shape[1] or self.dtype.kind != "f":
            raise DataError(
                f"{path}: {name} is {self.dtype.name} of shape {shape}; rows need a matrix (rows, "
                "dim) of floating-point numbers."
            )
        self.rows, self.dim = shape

    def open_rows(self) -> ArrayPoints:
        """All rows, in memory.

        Raises:
            DataError: memory is too small, or the archive is corrupt.
        """
        return self._points

    @functools.cached_property
    def _points(self):
        free = free_memory()
        if self._nbytes > free:
            raise DataError(
                f"{self.path} is compressed and {self._name} takes {size(self._nbytes)} of memory, "
                f"{size(free)} are free; save it with np.savez or np.save, which are read by rows."
            )
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                return ArrayPoints(archive[self._name])
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.path} cannot be read: {error}; write it again.") from error
