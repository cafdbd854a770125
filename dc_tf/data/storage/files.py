"""One interface to local files and those of `tf.io.gfile`; local ones do not import TensorFlow.

    with open_binary("gs://bucket/list.csv") as file:
        file.read(100)
    with opened("gs://bucket/manifest.json") as file:
        file.read()

Errors are OSError for both.
"""

import contextlib
import glob
import io
import os
import re
import shutil
import typing
import uuid
from collections.abc import Iterator

from dc_tf import atomic


def is_local(path) -> bool:
    """Whether a path is on a mounted file system, rather than a URL for `tf.io.gfile`."""
    return "://" not in path


def same_place(a, b) -> bool:
    """Whether two paths name the same file or folder."""
    if is_local(a) and is_local(b):
        return os.path.realpath(a) == os.path.realpath(b)
    return a.rstrip("/") == b.rstrip("/")


def open_binary(path) -> io.BufferedReader:
    """Opens a file for buffered, seekable reading of bytes."""
    if is_local(path):
        return open(path, "rb", buffering=1 << 20)
    return io.BufferedReader(_RemoteFile(path), 1 << 20)


def size_of(path) -> int:
    """Size of a file in bytes."""
    if is_local(path):
        return os.stat(path).st_size
    with os_errors():
        return _gfile().stat(path).length


@contextlib.contextmanager
def opened(path, mode="r") -> Iterator[typing.IO]:
    """Opens a file for sequential reading or writing: UTF-8 text, or bytes with "b" in `mode`."""
    if is_local(path):
        with open(path, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
    else:
        with os_errors(), _gfile().GFile(path, mode) as file:
            yield file


def exists(path) -> bool:
    return os.path.exists(path) if is_local(path) else _gfile().exists(path)


def is_folder(path) -> bool:
    return os.path.isdir(path) if is_local(path) else _gfile().isdir(path)


def names_in(folder) -> list[str]:
    """Names of the files and folders in a folder, in arbitrary order, without trailing slashes."""
    if is_local(folder):
        return os.listdir(folder)
    with os_errors():
        return [name.rstrip("/") for name in _gfile().listdir(folder)]


def make_folder(path) -> None:
    """Creates a folder and its missing parents."""
    if is_local(path):
        os.makedirs(path, exist_ok=True)
    else:
        with os_errors():
            _gfile().makedirs(path)


def remove(path) -> None:
    if is_local(path):
        os.remove(path)
    else:
        with os_errors():
            _gfile().remove(path)


def rename(path, new) -> None:
    """Renames a file, replacing an existing one."""
    if is_local(path):
        os.replace(path, new)
    else:
        with os_errors():
            _gfile().rename(path, new, overwrite=True)


def remove_folder(path) -> None:
    """Removes a folder and its contents."""
    if is_local(path):
        shutil.rmtree(path)
    else:
        with os_errors():
            _gfile().rmtree(path)


def expand(pattern) -> list[str]:
    """Expands a pattern to a sorted list of paths.

    Args:
        pattern: a path, a glob pattern, or one with number ranges as in WebDataset:
            "train-{0000..0147}.tar". Ranges expand to all numbers, also of missing files.
    """
    ranges = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if ranges:
        first, last = ranges.groups()
        names = [
            f"{pattern[: ranges.start()]}{number:0{len(first)}d}{pattern[ranges.end() :]}"
            for number in range(int(first), int(last) + 1)
        ]
        return [path for name in names for path in expand(name)]
    if any(c in pattern for c in "*?["):
        return sorted(glob.glob(pattern) if is_local(pattern) else _remote_glob(pattern))
    return [pattern]


def sync(path) -> None:
    """As `atomic.sync`, of a local file or folder; others are on disk when they are closed."""
    if is_local(path):
        atomic.sync(path)


def write_file(path, write, concurrent=False) -> None:
    """Writes a file completely or not at all, as `atomic.write_file`."""
    if is_local(path):
        atomic.write_file(path, write, concurrent)
        return
    staging = f"{path}.{uuid.uuid4().hex}.tmp"
    with os_errors():
        try:
            with _gfile().GFile(staging, "wb") as file:
                file.write(b"")  # without any write there would be no file
                write(file)
            _gfile().rename(staging, path, overwrite=True)
        finally:
            if _gfile().exists(staging):
                _gfile().remove(staging)


class _RemoteFile(io.RawIOBase):
    """Adapts a `tf.io.gfile.GFile` to `io.RawIOBase`."""

    def __init__(self, path):
        with os_errors():
            self._file = _gfile().GFile(path, "rb")
        self._size = size_of(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        with os_errors():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset, whence=os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._size}[whence]
        self._file.seek(start + offset)
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextlib.contextmanager
def os_errors() -> Iterator[None]:
    """Converts TensorFlow errors raised in the body to OSError."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(error.message) from error
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


def _remote_glob(pattern):
    with os_errors():
        return _gfile().glob(pattern)


def _gfile():
    import tensorflow as tf  # Only where it is needed: it takes seconds to import.

    return tf.io.gfile
