"""Files on local disks and behind `tf.io.gfile`, read the same way; no TensorFlow for local ones.

with open_binary("gs://bucket/list.csv") as file:
    file.read(100)
"""

import io
import os
import re


def is_local(path):
    """Whether a path is on this machine's file systems, rather than behind `tf.io.gfile`."""
    return "://" not in path


def same_place(a, b):
    """Whether two paths name the same file or folder."""
    if is_local(a) and is_local(b):
        return os.path.realpath(a) == os.path.realpath(b)
    return a.rstrip("/") == b.rstrip("/")


def open_binary(path):
    """Opens a file for buffered, seekable reading of bytes."""
    if is_local(path):
        return open(path, "rb", buffering=1 << 20)
    return io.BufferedReader(_RemoteFile(path), 1 << 20)


def size_of(path):
    """Size of a file in bytes."""
    return os.stat(path).st_size if is_local(path) else _gfile().stat(path).length


def expand(pattern):
    """Files that a pattern names: sorted list of str.

    Args:
        pattern: a path, a glob pattern, or one with number ranges as web data sets have them:
            "train-{0000..0147}.tar". A range is expanded, whether its files exist or not.
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
        return sorted(_gfile().glob(pattern))
    return [pattern]


def sync(path):
    """Brings a local file, or a folder's entries, to disk; a machine may stop at any time."""
    if not is_local(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _RemoteFile(io.RawIOBase):
    """A `tf.io.gfile.GFile` as Python's own kind of file."""

    def __init__(self, path):
        self._file = _gfile().GFile(path, "rb")
        self._size = size_of(path)

    def readable(self):
        return True

    def seekable(self):
        return True

    def readinto(self, buffer):
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def tell(self):
        return self._file.tell()

    def seek(self, offset, whence=os.SEEK_SET):
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._size}[whence]
        self._file.seek(start + offset)
        return self._file.tell()

    def close(self):
        if not self.closed:
            self._file.close()
        super().close()


def _gfile():
    import tensorflow as tf  # Only where it is needed: it takes seconds to import.

    return tf.io.gfile
