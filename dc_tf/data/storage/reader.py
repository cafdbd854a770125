"""Reads records by row id: in any order, from many threads, with positioned reads.

    reader = RowReader(Dataset.open("/data/mine"))
    reader.read([7, 0, 7])                                  # three records, bytes
    reader.examples([7])[0]["meta"]                         # decoded, with metadata

A worker reads only the rows that its sampler draws, in that order; data is never re-sharded. Every
record is checked against its checksum.
"""

import concurrent.futures
import contextlib
import functools
import os
import re
import threading
from collections.abc import Iterator

from dc_tf.data.storage import files, schema
from dc_tf.data.storage.files import is_local
from dc_tf.data.storage.partial_record import without_feature
from dc_tf.data.storage.tfrecord import (
    FOOTER_BYTES,
    HEADER_BYTES,
    MAX_RECORD_BYTES,
    header_length,
    unframe,
)
from dc_tf.errors import DataError

_MAX_OPEN = 256  # files kept open; further shards are opened for each read
_REMOTE_READS = 32  # concurrent reads, each from its own file
_MAX_REMOTE_IDLE = 96  # idle files kept open in addition; each has a buffer of half a MB


class CorruptRow(DataError):
    """A row whose bytes changed after writing or are not an image; retrying does not help."""


class RowReader:
    """Reads records of a data set by row id. Safe to use from several threads.

    Attributes:
        dataset: the Dataset.
    """

    def __init__(self, dataset):
        """Prepares; files are opened on first use.

        Args:
            dataset: Dataset.
        """
        self.dataset = dataset
        paths = map(dataset.shard_path, range(len(dataset.shards)))
        self._is_local = all(map(is_local, paths))
        self._files = _LocalFiles(dataset) if self._is_local else _RemoteFiles(dataset)

    def read(self, row_ids, corrupt=None) -> list[bytes]:
        """Reads records.

        Args:
            row_ids: (n,) integers in [0, N), in any order, repeats allowed.
            corrupt: bytes returned in place of a corrupt record; None: a corrupt record raises.

        Returns:
            list of n bytes, serialised examples.

        Raises:
            CorruptRow: a record is truncated, has a wrong checksum, or is not the one that was
                indexed. Names the shard and the offset.
            DataError: a row id is out of range, or a shard is missing or cannot be read.
        """
        shards, entries = self.dataset.locate(row_ids)
        places = shards.tolist(), entries[:, 0].tolist(), entries[:, 1].tolist()
        read_one = self._read_one
        if corrupt is not None:
            read_one = functools.partial(self._read_or, corrupt)
        return list(self._files.map(read_one, *places))

    def examples(self, row_ids) -> list[dict]:
        """Reads and decodes records, with the feature names of the data set.

        Returns:
            list of n dict, see `schema.decode_example`.

        Raises:
            CorruptRow, DataError: as in `read`, and for a record that does not hold an image.
        """
        return [
            self._decode(row, record)
            for row, record in zip(row_ids, self.read(row_ids), strict=True)
        ]

    def sources(self, row_ids) -> list[str | None]:
        """The files that rows were made of, as their records name them.

        Images of local shards are not read, and so the checksum of a record is not compared.

        Returns:
            list of n str; "" where a record names none, None where it is corrupt.

        Raises:
            DataError: a row id is out of range, or a shard is missing or cannot be read.
        """
        shards, entries = self.dataset.locate(row_ids)
        places = shards.tolist(), entries[:, 0].tolist(), entries[:, 1].tolist()
        return list(self._files.map(self._source_of, *places))

    def close(self) -> None:
        """Closes the files; a later read opens them again."""
        self._files.close()

    def _decode(self, row_id, record):
        try:
            return schema.decode_example(record, self.dataset.features)
        except ValueError as error:
            raise CorruptRow(f"the record of {self.dataset.describe(row_id)} {error}.") from error

    def _source_of(self, *place):
        try:
            return schema.source_of(self._without_image(*place), self.dataset.features)
        except (CorruptRow, ValueError):
            return None

    def _without_image(self, shard, offset, length):
        """The record less its image; a remote one whole, since requests take longer than bytes."""
        self._check_inside(shard, offset, length)
        read = functools.partial(self._bytes, shard, offset)
        if self._is_local and header_length(read(-HEADER_BYTES, HEADER_BYTES)) == length:
            with contextlib.suppress(ValueError):  # a record with its fields in another order
                return without_feature(read, length, self.dataset.features.image)
        return self._read_one(shard, offset, length)

    def _read_one(self, shard, offset, length):
        self._check_inside(shard, offset, length)
        frame_bytes = HEADER_BYTES + length + FOOTER_BYTES
        frame = self._bytes(shard, offset, -HEADER_BYTES, frame_bytes)
        record, fault = unframe(frame, length)
        if fault:
            raise CorruptRow(f"{self._place(shard, offset)} {fault}.")
        return record

    def _check_inside(self, shard, offset, length):
        start, frame_bytes = offset - HEADER_BYTES, HEADER_BYTES + length + FOOTER_BYTES
        inside = 0 <= start <= self.dataset.shards[shard].bytes - frame_bytes
        if not inside or not 0 <= length <= MAX_RECORD_BYTES:
            raise CorruptRow(
                f"{self._place(shard, offset)} with {length} bytes exceeds its shard, which has "
                f"{self.dataset.shards[shard].bytes}: the index is corrupt."
            )

    def _bytes(self, shard, offset, start, count):
        """`count` bytes of the shard of the record at `offset`, from `start` after that on."""
        try:
            return self._files.read(shard, offset + start, count)
        except OSError as error:
            raise DataError(
                f"{self._place(shard, offset)} cannot be read ({error}); list such shards with "
                f"`dc_tf inspect {self.dataset.path} --verify` and restore them."
            ) from error

    def _read_or(self, corrupt, *place):
        try:
            return self._read_one(*place)
        except CorruptRow:
            return corrupt

    def _place(self, shard, offset):
        return f"the record in {self.dataset.shard_path(shard)} at offset {offset}"


@contextlib.contextmanager
def data_errors() -> Iterator[None]:
    """Converts a TensorFlow error that wraps a DataError of a pipeline back to a DataError.

    with data_errors():
        for batch in batches: ...
    """
    import tensorflow as tf  # A pipeline has imported it already.

    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(r"(?:DataError|CorruptRow): (.*)", error.message)
        if not found:
            raise
        raise DataError(found.group(1)) from error


class _LocalFiles:
    """Positioned reads of local shards. `os.pread` takes no lock and moves no position."""

    def __init__(self, dataset):
        self._dataset = dataset
        self._open = {}
        self._lock = threading.Lock()

    def map(self, read_one, *places) -> Iterator:
        """Results of `read_one` for each place, as of Python's `map`."""
        return map(read_one, *places)

    def read(self, shard, start, count) -> bytes:
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

    def close(self) -> None:
        with self._lock:
            for file in self._open.values():
                os.close(file)
            self._open = {}

    __del__ = close


class _RemoteFiles:
    """Concurrent reads through `tf.io.gfile`, to hide network latency.

    A GFile has a single position, so each read has exclusive use of one.
    """

    def __init__(self, dataset):
        self._dataset = dataset
        self._begin()

    def map(self, read_one, *places) -> Iterator:
        """Results of `read_one` for each place, in order; raises the first error in that order."""
        if self._process != os.getpid():
            self._begin()  # a fork has no threads, and a lock may stay held
        return self._threads().map(read_one, *places)

    def read(self, shard, start, count) -> bytes:
        import tensorflow as tf  # Not for local files: it takes seconds to import.

        idle = self._idle  # `close` replaces the list, so a file of this read is dropped with it
        file = self._take(idle, shard)
        with files.os_errors():
            if file is None:
                file = tf.io.gfile.GFile(self._dataset.shard_path(shard), "rb")
            try:
                file.seek(start)
                content = file.read(count)
            except tf.errors.OutOfRangeError:
                return b""  # past the end, as for a local file
        self._keep(idle, shard, file)
        return content

    def close(self) -> None:
        # Reads in progress complete: pool and files are released when no longer referenced.
        self._pool, self._idle = None, []

    def _begin(self):
        self._lock = threading.Lock()
        self.close()
        self._process = os.getpid()

    def _threads(self):
        with self._lock:
            if self._pool is None:
                self._pool = concurrent.futures.ThreadPoolExecutor(_REMOTE_READS, "remote_read")
            return self._pool

    def _take(self, idle, shard):
        with self._lock:
            for place, (of_shard, file) in enumerate(idle):
                if of_shard == shard:
                    del idle[place]
                    return file
        return None

    def _keep(self, idle, shard, file):
        with self._lock:
            idle.append((shard, file))
            if len(idle) > _MAX_REMOTE_IDLE:
                del idle[0]
