"""Reads a pickle of plain values and numeric arrays without running code from the file.

    values = load_plain(data, "gnd_roxford5k.pkl")

A pickle is a program that may call any function. This reader gives it access only to the
replacement functions of this module, so even NumPy's reconstruction functions do not receive data
from the file. It returns numbers, text, bytes, lists, tuples, dicts and numeric arrays, and raises
on anything else.
"""

import io
import itertools
import math
import pickle

import numpy as np

from dc_tf.errors import DataError

MAX_BYTES = 256 << 20
MAX_VALUES = 5_000_000


def load_plain(data: bytes, source: str) -> object:
    """Loads a pickle of plain values.

    Args:
        data: the pickle.
        source: name of the file, for messages.

    Raises:
        DataError: the pickle is too large or corrupt, or it holds anything but plain values.
    """
    if len(data) > MAX_BYTES:
        raise DataError(f"{source} has {len(data)} bytes, more than {MAX_BYTES}.")
    try:
        values = _Unpickler(io.BytesIO(data), encoding="latin1").load()
        return _finished(values, itertools.count())
    except Exception as error:  # a malformed pickle can raise anything
        raise DataError(
            f"{source} cannot be read as plain values ({type(error).__name__}: {error}); if you "
            "trust the file, convert it to JSON."
        ) from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        module = module.replace("numpy._core", "numpy.core")
        known = {
            ("numpy.core.multiarray", "_reconstruct"): _Call(_new_array),
            ("numpy.core.multiarray", "scalar"): _Call(_scalar),
            ("numpy.core.numeric", "_frombuffer"): _Call(_from_buffer),
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Type,
            ("_codecs", "encode"): _Call(_encode),
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid):
        raise pickle.UnpicklingError("it refers to something outside of it")


class _Call:
    """A function that a pickle can call but whose attributes it cannot set."""

    __slots__ = ("_function",)

    def __init__(self, function):
        self._function = function

    def __call__(self, *args):
        return self._function(*args)

    def __setstate__(self, state):
        raise ValueError("a function with a state")


class _Type:
    """Replaces numpy.dtype: the kind and size of numbers or text."""

    def __init__(self, name, *_):
        if not isinstance(name, str) or name[:1] not in "iufbSU" or not name[1:].isdigit():
            raise ValueError(f"arrays of {name!r}")
        self._name = name
        self._order = "="

    def __setstate__(self, state):
        if state[1] not in ("<", ">", "|", "=") or state[2:5] != (None, None, None):
            raise ValueError("arrays of a compound type")
        self._order = state[1]

    @property
    def dtype(self):
        return np.dtype(self._order.replace("|", "=") + self._name)


class _Array:
    """Replaces numpy.ndarray until the pickle has been read."""

    value = None

    def __setstate__(self, state):
        _, shape, kind, fortran, data = state
        self.value = _array(data, kind, shape, "F" if fortran else "C")


def _new_array(*_):
    return _Array()


def _from_buffer(data, kind, shape, order):
    array = _Array()
    array.value = _array(data, kind, shape, order)
    return array


def _scalar(kind, data):
    return _array(data, kind, (), "C")[()]


def _array(data, kind, shape, order):
    data = data.encode("latin1") if isinstance(data, str) else bytes(data)
    if any(not isinstance(n, int) or n < 0 for n in shape):
        raise ValueError("an array of an impossible shape")
    if math.prod(shape) * kind.dtype.itemsize != len(data):
        raise ValueError("an array whose bytes do not fit its shape")
    flat = np.frombuffer(data, kind.dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _encode(text, encoding="latin1", *_):
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise ValueError("bytes of an unknown encoding")
    return text.encode(encoding)


def _finished(value, visits):
    """The value with every `_Array` replaced by its array."""
    if next(visits) > MAX_VALUES:  # a small file can refer to the same list many times
        raise ValueError(f"more than {MAX_VALUES} values")
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {_finished(key, visits): _finished(item, visits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_finished(item, visits) for item in value)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        return value
    raise ValueError(f"a value of type {type(value).__name__}")
