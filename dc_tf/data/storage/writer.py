"""Writes a data set: rows to shards with indexes and a manifest.

    with DatasetWriter("/data/mine", class_names=["cat", "dog"]) as writer:
        writer.write(jpeg_bytes, label=1, source="dog/rex.jpg")

Rows are numbered in the order in which they are written.
"""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator

import numpy as np

from dc_tf.data.storage import files, schema
from dc_tf.data.storage.files import size_of, sync
from dc_tf.data.storage.manifest import (
    INDEX_SUFFIX,
    SCHEMA_VERSION,
    Dataset,
    Shard,
    checksum,
    encode_index,
)
from dc_tf.data.storage.staging import Staging
from dc_tf.data.storage.tfrecord import FOOTER_BYTES, HEADER_BYTES, frame
from dc_tf.errors import ConfigError, DataError

_SHARD_BYTES = 256 << 20  # 10 TB make 40,000 shards: as many indexes as can be mapped at once


class DatasetWriter:
    """Writes a data set: stages the shards, then moves them into place, the manifest last.

    A context manager. If the body raises, the folder is unchanged; with a `job`, the finished
    shards are kept, and a writer of the same job resumes after them with the same result as an
    uninterrupted one. A data set to be replaced stays usable until the new one is complete.

    Attributes:
        rows: int, rows written so far.
        is_full: whether the current shard is full; the next `write` then starts another.
    """

    def __init__(self, path, class_names=None, rows_per_shard=None, overwrite=False, job=None):
        """Prepares to write.

        Args:
            path: folder, created if missing.
            class_names: list of str, one for each label, or None.
            rows_per_shard: rows in each shard but the last; None closes a shard at 256 MiB.
            overwrite: whether to replace an existing data set. Other files are kept.
            job: JSON-serializable dict that describes source and settings, for the manifest.

        Raises:
            ConfigError: the folder is not empty and `overwrite` is not set, or `rows_per_shard`
                is less than 1.
        """
        if rows_per_shard is not None and rows_per_shard < 1:
            raise ConfigError(f"rows_per_shard is {rows_per_shard}; it must be at least 1.")
        self.rows = 0
        self._path = os.fspath(path)
        self._class_names = list(class_names) if class_names is not None else None
        self._rows_per_shard = rows_per_shard
        self._job = job
        self._shards = []
        self._files = []
        self._current = None
        self._staging = Staging(path, job, overwrite)

    def __enter__(self):
        self._staging.__enter__()
        noted = 0
        for note in self._staging.notes():
            shard = note["shard"] and Shard(**note["shard"])
            if shard and not self._is_whole(shard):
                break
            self._shards += [shard] if shard else []
            noted += 1
        self._staging.forget_notes(noted)
        self.rows = sum(shard.rows for shard in self._shards)
        return self

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self.close_shard()
                self._commit()
        finally:
            self._staging.__exit__(kind, error, trace)

    @property
    def is_full(self) -> bool:
        return self._current is not None and self._current.is_full(self._rows_per_shard)

    def notes(self) -> Iterator:
        """Yields the note of each finished shard, of this and earlier writers of the job."""
        for note in self._staging.notes():
            yield note["note"]

    def write(self, encoded, label=None, source="", meta=None) -> int:
        """Appends one row; arguments as for `schema.encode_example`.

        Returns:
            int, the row's id.

        Raises:
            DataError: the label is outside the class names.
        """
        classes = len(self._class_names) if self._class_names is not None else np.inf
        if label is not None and not 0 <= label < classes:
            raise DataError(
                f"{source or 'an image'} has label {label}; the class names allow 0..{classes - 1}."
            )
        return self.write_record(schema.encode_example(encoded, label, source, meta), label)

    def write_record(self, record, label=None) -> int:
        """Appends one row, a record of `schema.encode_example`, whose label is given beside it.

        Returns:
            int, the row's id.
        """
        if self.is_full:
            self.close_shard()
        if self._current is None:
            self._current = _OpenShard(self._staging.path(f"{len(self._shards)}.tfrecord"))
        self._current.write(record, label)
        self.rows += 1
        return self.rows - 1

    def close_shard(self, note=None) -> None:
        """Finishes the current shard; a resumed writer will not write it again.

        Args:
            note: JSON-serializable dict that a later writer of the job finds in `notes`. With a
                note, the call is recorded even if no row was written since the last.
        """
        if self._current is None and note is None:
            return
        shard = self._current.close() if self._current is not None else None
        self._current = None
        self._shards += [shard] if shard else []
        self._staging.add_note({"shard": shard and dataclasses.asdict(shard), "note": note})

    def write_file(self, name, text) -> None:
        """Adds a text file, from a str or an iterable of str, committed with the data set."""
        self._staging.write(name, text)
        self._files.append(name)

    def discard(self) -> None:
        """Removes everything staged: a later writer of the same job starts over."""
        self._staging.discard()

    def _commit(self):
        if not self.rows:
            self.discard()
            raise DataError(f"no image was written to {self._path}; a data set needs at least one.")
        shards, moves = [], {name: name for name in self._files}
        for number, shard in enumerate(self._shards):
            name = f"shard-{number:05d}-of-{len(self._shards):05d}.tfrecord"
            for suffix in ("", INDEX_SUFFIX):
                moves[shard.name + suffix] = name + suffix
            shards.append(dataclasses.asdict(dataclasses.replace(shard, name=name)))
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "rows": self.rows,
            "class_names": self._class_names,
            "shards": shards,
            "origin": self._job,
        }
        self._staging.commit(moves, manifest)

    def _is_whole(self, shard):
        """Whether a noted shard is complete on disk: a power failure may have removed it."""
        if self._staging.is_committing():
            return True
        paths = [self._staging.path(shard.name + suffix) for suffix in ("", INDEX_SUFFIX)]
        return all(map(files.exists, paths)) and size_of(paths[0]) == shard.bytes


def is_finished(path, job) -> bool:
    """Whether a folder holds the complete data set of this job."""
    try:
        return Dataset.open(path).origin == job
    except DataError:
        return False


class _OpenShard:
    """The shard being written, with its index in memory."""

    def __init__(self, path):
        self._path = path
        self._opened = contextlib.ExitStack()
        self._file = self._opened.enter_context(files.opened(path, "wb"))
        self._digest = hashlib.sha256()
        self._index = []
        self._bytes = 0

    def write(self, record, label) -> None:
        self._file.write(frame(record))
        self._digest.update(record)
        label = schema.NO_LABEL if label is None else label
        self._index.append((self._bytes + HEADER_BYTES, len(record), label))
        self._bytes += HEADER_BYTES + len(record) + FOOTER_BYTES

    def is_full(self, rows_per_shard) -> bool:
        if rows_per_shard is None:
            return self._bytes >= _SHARD_BYTES
        return len(self._index) >= rows_per_shard

    def close(self) -> None:
        self._opened.close()
        with files.opened(self._path + INDEX_SUFFIX, "wb") as file:
            file.write(encode_index(self._index))
        sync(self._path)
        sync(self._path + INDEX_SUFFIX)
        name = os.path.basename(self._path)
        return Shard(name, len(self._index), self._bytes, checksum(self._digest))
