"""A data set folder: TFRecord shards, an index beside each, and the manifest that names them.

    with DatasetWriter("/data/mine", class_names=["cat", "dog"]) as writer:
        writer.write(jpeg_bytes, label=1, source="dog/rex.jpg")
    dataset = Dataset.open("/data/mine")
    dataset.rows, dataset.labels()

`manifest.json` is written last: a folder that has one is complete. A row id is a position in
manifest order, 0..N-1, and names an image for as long as the data set exists. Paths may be anything
that `tf.io.gfile` reads. The writer numbers rows in the order in which they were written.

Folder:
    shard-00000-of-00002.tfrecord             records
    shard-00000-of-00002.tfrecord.index.npy   (n, 3) int64: offset of the record's payload and its
                                              length, in bytes; label (-1: none)
    manifest.json                             schema version, rows, shards with checksums, classes
"""

import dataclasses
import hashlib
import io
import json
import os

import numpy as np
import tensorflow as tf

from dc_tf.data import schema
from dc_tf.errors import ConfigError, DataError

MANIFEST = "manifest.json"
INDEX_SUFFIX = ".index.npy"
SCHEMA_VERSION = 1
HEADER_BYTES = 12  # of a TFRecord: payload length (8) and its checksum (4), before the payload
FOOTER_BYTES = 4  # the payload's checksum, after it
_ASIDE = ".writing"
_SHARD_BYTES = 256 << 20  # 10 TB make 40,000 shards: as many indexes as can be mapped at once


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file of a data set, as the manifest lists it.

    Attributes:
        name: file name inside the folder.
        rows: number of records.
        bytes: file size.
        checksum: "sha256:..." over the records' payloads in order.
    """

    name: str
    rows: int
    bytes: int
    checksum: str


class Dataset:
    """What a data set holds and where each row lies; reads indexes, never images.

    Attributes:
        path: str.
        rows: int, N.
        shards: tuple of Shard.
        class_names: tuple of str, or None without classes.
        offsets: (shards + 1,) int64, the first row id of each shard, then N.
    """

    def __init__(self, path, shards, class_names):
        self.path = path
        self.shards = tuple(shards)
        self.class_names = tuple(class_names) if class_names is not None else None
        self.offsets = np.cumsum([0] + [shard.rows for shard in self.shards], dtype=np.int64)
        self.rows = int(self.offsets[-1])
        self._indexes = {}

    @classmethod
    def open(cls, path):
        """Opens a complete data set.

        Raises:
            DataError: the folder is missing, incomplete, or of an unknown schema version.
        """
        path = os.fspath(path)
        manifest = _read_manifest(path)
        version = manifest.get("schema_version")
        if version != SCHEMA_VERSION:
            raise DataError(
                f"The data set {path} has schema version {version}; this program reads version "
                f"{SCHEMA_VERSION}. Make it again with `dc_tf convert` or `dc_tf generate`."
            )
        try:
            shards = [Shard(**shard) for shard in manifest["shards"]]
            dataset = cls(path, shards, manifest["class_names"])
        except (KeyError, TypeError) as error:
            raise DataError(f"{os.path.join(path, MANIFEST)} is damaged: {error!r}.") from error
        if dataset.rows != manifest["rows"]:
            raise DataError(
                f"{os.path.join(path, MANIFEST)} is damaged: it counts {manifest['rows']} rows, "
                f"but its shards have {dataset.rows}."
            )
        return dataset

    def fingerprint(self):
        """Names the contents: the same for a copy elsewhere, another after any change. str."""
        checksums = [shard.checksum for shard in self.shards]
        return f"{self.rows} rows, {_checksum(hashlib.sha256(json.dumps(checksums).encode()))}"

    def labels(self):
        """Labels of all rows, (N,) int32, -1 where a row has none."""
        parts = [self.index(number)[:, 2] for number in range(len(self.shards))]
        return np.concatenate(parts).astype(np.int32)

    def locate(self, row_ids):
        """Where rows lie.

        Args:
            row_ids: (n,) integers in [0, N), in any order, repeats allowed.

        Returns:
            shard (n,) int64 numbers, and (n, 3) int64 index entries: offset, length, label.

        Raises:
            DataError: a row id outside [0, N).
        """
        row_ids = np.asarray(row_ids, np.int64)
        if row_ids.size and (row_ids.min() < 0 or row_ids.max() >= self.rows):
            wrong = row_ids[(row_ids < 0) | (row_ids >= self.rows)][0]
            raise DataError(
                f"Row {wrong} is not in {self.path}, which has rows 0..{self.rows - 1}."
            )
        shards = np.searchsorted(self.offsets, row_ids, side="right") - 1
        entries = np.empty((len(row_ids), 3), np.int64)
        for number in np.unique(shards):
            chosen = shards == number
            entries[chosen] = self.index(number)[row_ids[chosen] - self.offsets[number]]
        return shards, entries

    def describe(self, row_id):
        """Names a row for an error message: its id, shard and byte offset."""
        (shard,), (entry,) = self.locate([row_id])
        return f"row {row_id} ({self.shard_path(shard)}, offset {entry[0]}, {entry[1]} bytes)"

    def shard_path(self, number):
        """Path of a shard's TFRecord file."""
        return os.path.join(self.path, self.shards[number].name)

    def index(self, number):
        """Index of a shard, (rows, 3) int64: offset, length, label. Mapped, not read, if local."""
        if number not in self._indexes:
            self._indexes[number] = self._load_index(number)
        return self._indexes[number]

    def verify(self):
        """Reads everything and compares it with the checksums.

        Raises:
            DataError: names the first shard that is not what was written.
        """
        for number, shard in enumerate(self.shards):
            digest = hashlib.sha256()
            with tf.io.gfile.GFile(self.shard_path(number), "rb") as file:
                for offset, length, _ in self.index(number).tolist():
                    file.seek(offset)
                    digest.update(file.read(length))
            if _checksum(digest) != shard.checksum:
                raise DataError(f"{self.shard_path(number)} is not what was written: checksum.")

    def _load_index(self, number):
        path = self.shard_path(number) + INDEX_SUFFIX
        try:
            index = _load_array(path)
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise DataError(f"The index {path} cannot be read: {error}") from error
        if index.shape != (self.shards[number].rows, 3) or index.dtype != np.int64:
            raise DataError(
                f"The index {path} is {index.dtype} of shape {index.shape}; the manifest says "
                f"int64 of shape {(self.shards[number].rows, 3)}."
            )
        return index


class DatasetWriter:
    """Writes a data set: shards aside, then into place, the manifest last.

    A context manager. When the body raises, the folder is left as it was. A data set that is to be
    replaced stays usable until the new one is whole.

    Attributes:
        rows: int, rows written so far.
    """

    def __init__(self, path, class_names=None, rows_per_shard=None, overwrite=False):
        """Prepares to write.

        Args:
            path: folder, created if missing.
            class_names: list of str, one for each label, or None.
            rows_per_shard: rows in each shard but the last; None closes a shard at 256 MiB.
            overwrite: whether to replace a data set that is there. Other files are left alone.

        Raises:
            ConfigError: the folder is not empty and `overwrite` is not set, or a bad setting.
        """
        if rows_per_shard is not None and rows_per_shard < 1:
            raise ConfigError(f"rows_per_shard is {rows_per_shard}; it must be at least 1.")
        self.rows = 0
        self._path = os.fspath(path)
        self._class_names = list(class_names) if class_names is not None else None
        self._rows_per_shard = rows_per_shard
        self._shards = []
        self._current = None
        check_output(self._path, overwrite)

    def __enter__(self):
        self._remove_aside()
        tf.io.gfile.makedirs(os.path.join(self._path, _ASIDE))
        return self

    def __exit__(self, kind, error, trace):
        try:
            self._close_shard()
            if kind is None:
                self._commit()
        finally:
            self._remove_aside()

    def write(self, encoded, label=None, source="", meta=None):
        """Appends one row; arguments as for `schema.encode_example`.

        Returns:
            int, the row's id.

        Raises:
            DataError: a label outside the class names.
        """
        classes = len(self._class_names) if self._class_names is not None else np.inf
        if label is not None and not 0 <= label < classes:
            raise DataError(
                f"{source or 'An image'} has label {label}; the class names allow 0..{classes - 1}."
            )
        if self._current is None:
            aside = os.path.join(self._path, _ASIDE, f"{len(self._shards)}.tfrecord")
            self._current = _OpenShard(aside)
        self._current.write(schema.encode_example(encoded, label, source, meta), label)
        self.rows += 1
        if self._current.is_full(self._rows_per_shard):
            self._close_shard()
        return self.rows - 1

    def _close_shard(self):
        if self._current is not None:
            self._shards.append(self._current.close())
            self._current = None

    def _commit(self):
        if not self.rows:
            raise DataError(f"No image was written to {self._path}; a data set needs at least one.")
        _remove_data_set(self._path)
        shards = []
        for number, shard in enumerate(self._shards):
            name = f"shard-{number:05d}-of-{len(self._shards):05d}.tfrecord"
            for suffix in ("", INDEX_SUFFIX):
                aside = os.path.join(self._path, _ASIDE, shard.name + suffix)
                tf.io.gfile.rename(aside, os.path.join(self._path, name + suffix), overwrite=True)
            shards.append(dataclasses.asdict(dataclasses.replace(shard, name=name)))
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "rows": self.rows,
            "class_names": self._class_names,
            "shards": shards,
        }
        aside = os.path.join(self._path, _ASIDE, MANIFEST)
        with tf.io.gfile.GFile(aside, "w") as file:
            file.write(json.dumps(manifest, indent=1))
        tf.io.gfile.rename(aside, os.path.join(self._path, MANIFEST), overwrite=True)

    def _remove_aside(self):
        if tf.io.gfile.exists(os.path.join(self._path, _ASIDE)):
            tf.io.gfile.rmtree(os.path.join(self._path, _ASIDE))


class _OpenShard:
    """A shard that is being written, with its index in memory."""

    def __init__(self, path):
        self._path = path
        self._writer = tf.io.TFRecordWriter(path)
        self._digest = hashlib.sha256()
        self._index = []
        self._bytes = 0

    def write(self, record, label):
        self._writer.write(record)
        self._digest.update(record)
        label = schema.NO_LABEL if label is None else label
        self._index.append((self._bytes + HEADER_BYTES, len(record), label))
        self._bytes += HEADER_BYTES + len(record) + FOOTER_BYTES

    def is_full(self, rows_per_shard):
        if rows_per_shard is None:
            return self._bytes >= _SHARD_BYTES
        return len(self._index) >= rows_per_shard

    def close(self):
        self._writer.close()
        index = io.BytesIO()
        np.save(index, np.asarray(self._index, np.int64))
        with tf.io.gfile.GFile(self._path + INDEX_SUFFIX, "wb") as file:
            file.write(index.getvalue())
        name = os.path.basename(self._path)
        return Shard(name, len(self._index), self._bytes, _checksum(self._digest))


def is_local(path):
    """Whether a path is on this machine's file systems, rather than behind `tf.io.gfile`."""
    return "://" not in path


def check_output(path, overwrite):
    """Refuses a folder that must not be written to.

    Raises:
        ConfigError: it is a file, or holds something and `overwrite` is not set.
    """
    if not tf.io.gfile.exists(path):
        return
    if not tf.io.gfile.isdir(path):
        raise ConfigError(f"The output {path} is a file; give a folder.")
    left = [name for name in tf.io.gfile.listdir(path) if name.rstrip("/") != _ASIDE]
    if left and not overwrite:
        raise ConfigError(
            f"The output {path} is not empty (it has {left[0]}); give a new folder, or --overwrite "
            f"to replace the data set in it."
        )


def _read_manifest(path):
    try:
        with tf.io.gfile.GFile(os.path.join(path, MANIFEST), "r") as file:
            return json.loads(file.read())
    except tf.errors.OpError as error:
        state = "is incomplete" if tf.io.gfile.isdir(path) else "does not exist"
        raise DataError(
            f"The data set {path} {state}: it has no {MANIFEST}. Make it with "
            f"`dc_tf convert --input=IMAGES --output={path}` or `dc_tf generate --output={path}`."
        ) from error
    except ValueError as error:
        raise DataError(f"{os.path.join(path, MANIFEST)} is damaged: {error}.") from error


def _load_array(path):
    if is_local(path):
        return np.load(path, mmap_mode="r", allow_pickle=False)
    with tf.io.gfile.GFile(path, "rb") as file:
        return np.load(io.BytesIO(file.read()), allow_pickle=False)


def _remove_data_set(path):
    # The manifest first: from here on the folder counts as incomplete.
    names = [name for name in tf.io.gfile.listdir(path) if _is_shard_file(name)]
    for name in [MANIFEST, *names]:
        if tf.io.gfile.exists(os.path.join(path, name)):
            tf.io.gfile.remove(os.path.join(path, name))


def _is_shard_file(name):
    return name.startswith("shard-") and name.endswith((".tfrecord", INDEX_SUFFIX))


def _checksum(digest):
    return f"sha256:{digest.hexdigest()}"
