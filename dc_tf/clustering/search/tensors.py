"""Converts NumPy rows to tensors and back, without a copy where possible.

`tf.convert_to_tensor` copies an array, which costs more than assigning its rows to a few clusters.
Through DLPack, TensorFlow reads an array in place if its memory is aligned as TensorFlow's is.

    x = as_tensor(aligned_empty((1024, 64), np.float16))
    y = as_array(tf.matmul(x, x, transpose_b=True))
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from dc_tf.clustering.aligned import ALIGNMENT


def has_gpu() -> bool:
    """Whether TensorFlow's operations run on a GPU.

    Lists physical devices: listing logical ones initialises TensorFlow, after which workers cannot
    be connected.
    """
    return bool(tf.config.list_physical_devices("GPU"))


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Computes float32 products on a GPU in float32, not in TF32 with its 10 bits."""
    allowed = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(allowed)


def as_tensor(array) -> tf.Tensor:
    """A tensor of the array's values, which must not change while it is in use.

    Args:
        array: NumPy array or tensor.
    """
    if not isinstance(array, np.ndarray) or not _in_place(array):
        return tf.convert_to_tensor(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def as_array(tensor, dtype=None) -> np.ndarray:
    """A view of a tensor in CPU memory; do not write to it.

    It is marked as writable nevertheless: `np.argmax` copies a read-only array first, which takes
    three times as long.

    Args:
        tensor: of any shape.
        dtype: view its bits as this dtype of the same size; None is the tensor's own.
    """
    array = np.asarray(tensor)
    return np.asarray(_Memory(array if dtype is None else array.view(dtype)))


class _Memory:
    """The array interface of an array, marked as writable."""

    def __init__(self, array):
        self._array = array  # keeps its memory alive
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = array.__array_interface__ | {"data": (address, False)}


def _in_place(array):
    return (
        array.dtype in (np.float16, np.float32, np.float64)
        and array.dtype.isnative
        and array.size > 0
        and array.flags.c_contiguous
        and array.flags.writeable  # NumPy exports no others
        and array.ctypes.data % ALIGNMENT == 0
    )
