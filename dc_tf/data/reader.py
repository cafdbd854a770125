"""Reading records by row id: in any order, from many threads, with positioned reads.

    reader = RowReader(Dataset.open("/data/mine"))
    reader.read([7, 0, 7])                                  # three records, bytes
    tf.data.Dataset.range(8).batch(4).map(read_rows(reader))     # the same in a pipeline

A worker reads just the rows that it is to see, in the sampler's order; nothing is ever re-sharded.
"""

import contextlib
import os
import re
import struct
import threading

import numpy as np
import tensorflow as tf

from dc_tf.data import manifest
from dc_tf.errors import DataError

_MAX_OPEN = 256  # files kept open; the shards beyond are opened for each read
_MAX_REMOTE_OPEN = 16  # for each thread, as a remote file has one position and cannot be shared


class RowReader:
    """Reads records of a data set by row id. Safe to use from several threads.

    Attributes:
        dataset: the Dataset.
    """

    def __init__(self, dataset):
        self.dataset = dataset
        local = manifest.is_local(dataset.path)
        self._files = _LocalFiles(dataset) if local else _RemoteFiles(dataset)

    def read(self, row_ids):
        """Reads records.

        Args:
            row_ids: (n,) integers in [0, N), in any order, repeats allowed.

        Returns:
            list of n bytes, serialised examples.

        Raises:
            DataError: a row id out of range; a shard that is missing, cut short or not the one that
                was indexed. Names the shard and the offset.
        """
        shards, entries = self.dataset.locate(row_ids)
        places = zip(shards.tolist(), entries[:, 0].tolist(), entries[:, 1].tolist(), strict=True)
        return [self._read_one(*place) for place in places]

    def close(self):
        """Closes the files; a later read opens them again."""
        self._files.close()

    def _read_one(self, shard, offset, length):
        start = offset - manifest.HEADER_BYTES
        try:
            data = self._files.read(shard, start, length + manifest.HEADER_BYTES)
        except (OSError, tf.errors.OpError) as error:
            raise DataError(f"{self._place(shard, offset)} cannot be read: {error}") from error
        # The header repeats the length: an index of another or a rewritten shard shows here.
        if len(data) < length + manifest.HEADER_BYTES:
            raise DataError(f"{self._place(shard, offset)} ends early: the shard was cut short.")
        (stored,) = struct.unpack_from("<Q", data)
        if stored != length:
            raise DataError(
                f"{self._place(shard, offset)} has {stored} bytes, but the index says {length}: "
                f"the shard is not the one that was indexed, or is damaged."
            )
        return data[manifest.HEADER_BYTES :]

    def _place(self, shard, offset):
        return f"The record in {self.dataset.shard_path(shard)} at offset {offset}"


def read_rows(reader):
    """A function for `tf.data.Dataset.map`: (n,) int64 row ids to (n,) string records."""

    def read_array(row_ids):
        return np.array(reader.read(row_ids), object)  # TensorFlow takes a list for many results

    def read(row_ids):
        records = tf.numpy_function(read_array, [row_ids], tf.string, stateful=False)
        return tf.ensure_shape(records, row_ids.shape)

    return read


@contextlib.contextmanager
def data_errors():
    """Turns TensorFlow's wrapping of a DataError raised inside a pipeline back into a DataError.

    with data_errors():
        for batch in batches: ...
    """
    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(r"DataError: (.*)", error.message)
        if not found:
            raise
        raise DataError(found.group(1)) from error


class _LocalFiles:
    """Positioned reads of local shards. `os.pread` takes no lock and moves no position."""

    def __init__(self, dataset):
        self._dataset = dataset
        self._open = {}
        self._lock = threading.Lock()

    def read(self, shard, start, count):
        file = self._open.get(shard)
        if file is None:
            file = self._keep(shard)
        if file is not None:
            return os.pread(file, count, start)
        file = os.open(self._dataset.shard_path(shard), os.O_RDONLY)
        try:
            return os.pread(file, count, start)
        finally:
            os.close(file)

    def _keep(self, shard):
        with self._lock:
            if shard not in self._open and len(self._open) < _MAX_OPEN:
                self._open[shard] = os.open(self._dataset.shard_path(shard), os.O_RDONLY)
            return self._open.get(shard)

    def close(self):
        with self._lock:
            for file in self._open.values():
                os.close(file)
            self._open = {}

    __del__ = close


class _RemoteFiles:
    """Reads through `tf.io.gfile`, with a few open files for each thread."""

    def __init__(self, dataset):
        self._dataset = dataset
        self._local = threading.local()

    def read(self, shard, start, count):
        files = self._local.__dict__.setdefault("files", {})
        if shard not in files:
            if len(files) >= _MAX_REMOTE_OPEN:
                files.pop(next(iter(files))).close()
            files[shard] = tf.io.gfile.GFile(self._dataset.shard_path(shard), "rb")
        files[shard].seek(start)
        return files[shard].read(count)

    def close(self):
        self._local = threading.local()
