"""int64 matrices in `.npy` files of any place: memory-mapped if local, never larger than announced.

index = read_int64("/data/mine/shard-00000-of-00002.tfrecord.index.npy", (1000, 3))
rows = read_int64("gs://bucket/view/rows.npy", (5000,))
"""

import math

import numpy as np

from dc_tf.data.storage.files import is_local, open_binary, size_of


def read_int64(path, shape) -> np.ndarray:
    """The int64 array of a `.npy` file, of a shape that is known.

    Raises:
        ValueError: it has another shape, type or size.
        OSError: it cannot be read.
    """
    with open_binary(path) as file:
        found, fortran, dtype = _read_header(file)
        if found != shape or dtype != np.int64 or fortran:
            raise ValueError(
                f"it is {dtype} of shape {found}; the manifest says int64 of shape {shape}"
            )
        return _map_numbers(path, file, file.tell(), shape)


def _read_header(file):
    """(shape, is Fortran order, dtype) of a .npy file, read without allocating the array."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"version {version} of the format where (1, 0) was expected")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, fortran and len(shape) > 1, dtype


def _map_numbers(path, file, start, shape):
    """The int64 array after the header, memory-mapped if local."""
    count = math.prod(shape)
    if size_of(path) != start + 8 * count:
        raise ValueError(f"it has {size_of(path)} bytes, not {start + 8 * count}")
    if is_local(path) and count:
        return np.memmap(path, np.int64, "r", offset=start, shape=shape)
    return np.frombuffer(file.read(), np.int64).reshape(shape)
