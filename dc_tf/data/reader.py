"""Reading records by row id: in any order, from many threads, with positioned reads.

    reader = RowReader(Dataset.open("/data/mine"))
    reader.read([7, 0, 7])                                  # three records, bytes
    reader.examples([7])[0]["meta"]                         # decoded, with metadata

A worker reads just the rows that it is to see, in the sampler's order; nothing is ever re-sharded.
Every record is checked against its checksum.
"""

import contextlib
import os
import re
import threading

import tensorflow as tf

from dc_tf.data import schema
from dc_tf.data.files import is_local
from dc_tf.data.stand_ins import DamagedRow, StandIns
from dc_tf.data.tfrecord import FOOTER_BYTES, HEADER_BYTES, MAX_RECORD_BYTES, unframe
from dc_tf.errors import DataError

_MAX_OPEN = 256  # files kept open; the shards beyond are opened for each read
_MAX_REMOTE_OPEN = 16  # for each thread, as a remote file has one position and cannot be shared


class RowReader:
    """Reads records of a data set by row id. Safe to use from several threads.

    Attributes:
        dataset: the Dataset.
        stand_ins: StandIns, the damaged rows that pipelines met and what they gave instead.
    """

    def __init__(self, dataset, max_bad_share=0.0):
        """Prepares; files are opened when they are needed.

        Args:
            dataset: Dataset.
            max_bad_share: share of the rows, in [0, 1], that may be damaged; pipelines replace
                them by the next good row. Beyond it, and always in `read`, they are an error.
        """
        self.dataset = dataset
        self.stand_ins = StandIns(self, max_bad_share)
        local = all(is_local(dataset.shard_path(number)) for number in range(len(dataset.shards)))
        self._files = _LocalFiles(dataset) if local else _RemoteFiles(dataset)

    def read(self, row_ids):
        """Reads records.

        Args:
            row_ids: (n,) integers in [0, N), in any order, repeats allowed.

        Returns:
            list of n bytes, serialised examples.

        Raises:
            DamagedRow: a record that is cut short, has a wrong checksum, or is not the one that was
                indexed. Names the shard and the offset.
            DataError: a row id out of range; a shard that is missing or cannot be read.
        """
        shards, entries = self.dataset.locate(row_ids)
        places = zip(shards.tolist(), entries[:, 0].tolist(), entries[:, 1].tolist(), strict=True)
        return [self._read_one(*place) for place in places]

    def examples(self, row_ids):
        """Reads and decodes records, whatever their features are called.

        Returns:
            list of n dict, see `schema.decode_example`.

        Raises:
            DamagedRow, DataError: as in `read`, and for a record that does not hold an image.
        """
        return [
            self._decode(row, record)
            for row, record in zip(row_ids, self.read(row_ids), strict=True)
        ]

    def close(self):
        """Closes the files; a later read opens them again."""
        self._files.close()

    def _decode(self, row_id, record):
        try:
            return schema.decode_example(record, self.dataset.features)
        except ValueError as error:
            raise DamagedRow(f"The record of {self.dataset.describe(row_id)} {error}.") from error

    def _read_one(self, shard, offset, length):
        start, frame_bytes = offset - HEADER_BYTES, HEADER_BYTES + length + FOOTER_BYTES
        inside = 0 <= start <= self.dataset.shards[shard].bytes - frame_bytes
        if not inside or not 0 <= length <= MAX_RECORD_BYTES:
            raise DamagedRow(
                f"{self._place(shard, offset)} with {length} bytes cannot be: the shard has "
                f"{self.dataset.shards[shard].bytes}, so its index is damaged."
            )
        try:
            frame = self._files.read(shard, start, frame_bytes)
        except (OSError, tf.errors.OpError) as error:
            raise DataError(f"{self._place(shard, offset)} cannot be read: {error}") from error
        record, fault = unframe(frame, length)
        if fault:
            raise DamagedRow(f"{self._place(shard, offset)} {fault}.")
        return record

    def _place(self, shard, offset):
        return f"The record in {self.dataset.shard_path(shard)} at offset {offset}"


@contextlib.contextmanager
def data_errors():
    """Turns TensorFlow's wrapping of a DataError raised inside a pipeline back into a DataError.

    with data_errors():
        for batch in batches: ...
    """
    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(r"(?:DataError|DamagedRow): (.*)", error.message)
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
