"""A data set folder: TFRecord shards, an index beside each, and the manifest that names them.

    dataset = Dataset.open("/data/mine")
    dataset.rows, dataset.labels(), dataset.locate([7, 0])

`manifest.json` is written last, so a folder that has one is complete. A row id is a position in
manifest order, 0..N-1, and identifies an image for as long as the data set exists. Paths may be
anything that `tf.io.gfile` reads. `writer.DatasetWriter` writes such a folder; `index_tfrecords`
makes one whose shards are existing TFRecord files, in any folder.

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
import shlex

import numpy as np

from dc_tf.data.storage import files
from dc_tf.data.storage.files import is_local, open_binary, size_of
from dc_tf.data.storage.schema import OURS, Features
from dc_tf.errors import DataError

MANIFEST = "manifest.json"
STAGING_FOLDER = ".writing"  # of an unfinished data set, inside its folder
INDEX_SUFFIX = ".index.npy"
SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file of a data set, as the manifest lists it.

    Attributes:
        name: file name inside the folder; path or URL of an indexed shard in another folder.
        rows: number of records.
        bytes: file size.
        checksum: "sha256:..." over the records' payloads in order.
    """

    name: str
    rows: int
    bytes: int
    checksum: str


class Dataset:
    """A data set's contents and the location of each row; reads indexes, never images.

    Attributes:
        path: str.
        rows: int, N.
        shards: tuple of Shard.
        class_names: tuple of str, or None without classes.
        features: Features, the feature names of the records.
        origin: dict, source and settings that the data set was made with; {} if not recorded.
        offsets: (shards + 1,) int64, the first row id of each shard, then N.
    """

    def __init__(self, path, manifest):
        class_names = manifest["class_names"]
        self.path = path
        self.shards = tuple(Shard(**shard) for shard in manifest["shards"])
        self.class_names = tuple(class_names) if class_names is not None else None
        self.features = Features(**manifest["features"]) if "features" in manifest else OURS
        self.origin = manifest.get("origin") or {}
        _check_types(self)
        self.offsets = np.cumsum([0] + [shard.rows for shard in self.shards], dtype=np.int64)
        self.rows = int(self.offsets[-1])
        self._indexes = {}

    @classmethod
    def open(cls, path) -> "Dataset":
        """Opens a complete data set.

        Raises:
            DataError: the folder is missing, incomplete, or of an unknown schema version.
        """
        path = os.fspath(path)
        manifest = read_manifest(path)
        try:
            dataset = cls(path, manifest)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise DataError(f"{os.path.join(path, MANIFEST)} is corrupt: {error!r}.") from error
        if dataset.rows != manifest.get("rows"):
            raise DataError(
                f"{os.path.join(path, MANIFEST)} is corrupt: it counts {manifest.get('rows')} "
                f"rows, but its shards have {dataset.rows}."
            )
        return dataset

    def fingerprint(self) -> str:
        """A str that identifies the contents: equal for copies, different after any change."""
        checksums = [shard.checksum for shard in self.shards]
        return f"{self.rows} rows, {checksum(hashlib.sha256(json.dumps(checksums).encode()))}"

    def labels(self) -> np.ndarray:
        """Labels of all rows, (N,) int32, -1 where a row has none."""
        parts = [self.index(number)[:, 2] for number in range(len(self.shards))]
        return np.concatenate(parts).astype(np.int32)

    def locate(self, row_ids) -> tuple[np.ndarray, np.ndarray]:
        """Finds shard, offset, length and label of rows.

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
                f"row {wrong} is not in {self.path}, which has rows 0..{self.rows - 1}."
            )
        shards = np.searchsorted(self.offsets, row_ids, side="right") - 1
        entries = np.empty((len(row_ids), 3), np.int64)
        for number in np.unique(shards):
            chosen = shards == number
            entries[chosen] = self.index(number)[row_ids[chosen] - self.offsets[number]]
        return shards, entries

    def describe(self, row_id) -> str:
        """Names a row for an error message: its id, shard and byte offset."""
        (shard,), (entry,) = self.locate([row_id])
        return f"row {row_id} ({self.shard_path(shard)}, offset {entry[0]}, {entry[1]} bytes)"

    def shard_path(self, number) -> str:
        """Path of a shard's TFRecord file."""
        name = self.shards[number].name
        return os.path.join(self.path, name) if is_local(name) else name

    def index_path(self, number) -> str:
        """Path of a shard's index, always in the data set's folder."""
        return os.path.join(self.path, os.path.basename(self.shards[number].name) + INDEX_SUFFIX)

    def index(self, number) -> np.ndarray:
        """Index of a shard, (rows, 3) int64: offset, length, label; memory-mapped if local."""
        if number not in self._indexes:
            self._indexes[number] = self._load_index(number)
        return self._indexes[number]

    def _load_index(self, number):
        path, rows = self.index_path(number), self.shards[number].rows
        remedy = f"`dc_tf index --input={self.path}` rebuilds it."
        try:
            with open_binary(path) as file:
                shape, fortran, dtype = _read_header(file)
                start = file.tell()
                if shape != (rows, 3) or dtype != np.int64 or fortran:
                    raise DataError(
                        f"the index {path} is {dtype} of shape {shape}; the manifest says int64 of "
                        f"shape {(rows, 3)}. {remedy}"
                    )
                return _map_numbers(path, file, start, shape)
        except DataError:
            raise
        except Exception as error:  # NumPy raises any exception on a corrupt header.
            raise DataError(f"the index {path} cannot be read: {error}. {remedy}") from error


def read_manifest(path) -> dict:
    """The manifest of a complete data set, as a dict.

    Raises:
        DataError: it is missing, corrupt, or of an unknown schema version.
    """
    try:
        with files.opened(os.path.join(path, MANIFEST), "r") as file:
            manifest = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(_without_manifest(path)) from error
    except OSError as error:
        raise DataError(
            f"{os.path.join(path, MANIFEST)} cannot be read: {error.strerror or error}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{os.path.join(path, MANIFEST)} is corrupt: {error}.") from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"the data set {path} has schema version {version}; this program reads version "
            f"{SCHEMA_VERSION}. Make it again with `dc_tf convert` or `dc_tf generate`."
        )
    return manifest


def _without_manifest(path):
    """What a path is instead of a data set, and what to do; never names it as an output."""
    if not files.exists(path):
        return (
            f"the data set {path} does not exist. `dc_tf convert --input=IMAGES --output=DATA` "
            f"makes one of your images, `dc_tf generate --output=DATA` draws one."
        )
    if not files.is_folder(path):
        return f"{path} is a file; a data set is a folder, which `dc_tf convert` writes."
    names = files.names_in(path)
    if STAGING_FOLDER in names or any(name.endswith(INDEX_SUFFIX) for name in names):
        return (
            f"the data set {path} is incomplete: it has no {MANIFEST}. Repeat the command that was "
            f"writing it, which resumes."
        )
    return (
        f"{path} is not a data set: it has no {MANIFEST}. If it holds your images, `dc_tf convert "
        f"--input={shlex.quote(path)} --output=DATA` makes a data set of them in another "
        f"folder, DATA."
    )


def encode_index(entries) -> bytes:
    """Bytes of an index file.

    Args:
        entries: list of (offset, length, label).
    """
    file = io.BytesIO()
    np.save(file, np.asarray(entries, np.int64).reshape(-1, 3))
    return file.getvalue()


def checksum(digest) -> str:
    """A finished SHA-256 in the manifest's format."""
    return f"sha256:{digest.hexdigest()}"


def _check_types(dataset):
    """Rejects invalid manifests before any file is opened or memory allocated from their values.

    Raises:
        TypeError: a value has the wrong type or is out of range.
    """
    names = dataset.class_names or ()
    texts = [*names, *(shard.name for shard in dataset.shards)]
    texts += [shard.checksum for shard in dataset.shards]
    features = dataclasses.asdict(dataset.features)
    offset = features.pop("label_offset")
    for text in (*texts, *features.values()):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} where a string was expected")
    numbers = [count for shard in dataset.shards for count in (shard.rows, shard.bytes)]
    for number in (*numbers, abs(offset)):
        if type(number) is not int or not 0 <= number < 2**62:
            raise TypeError(f"{number!r} where a count was expected")
    for name in (shard.name for shard in dataset.shards):
        whole = not is_local(name) or os.path.isabs(name) or os.path.basename(name) == name
        if not whole or not name or "\0" in name or name in (".", ".."):
            raise TypeError(
                f"{name!r} where a file in the folder, or an absolute path, was expected"
            )
    if not isinstance(dataset.origin, dict):
        raise TypeError("origin is not a mapping")


def _read_header(file):
    """(shape, is Fortran order, dtype) of a .npy file, read without allocating the array."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"version {version} of the format where (1, 0) was expected")
    return np.lib.format.read_array_header_1_0(file)


def _map_numbers(path, file, start, shape):
    """The int64 array after the header, memory-mapped if local."""
    count = shape[0] * shape[1]
    if size_of(path) != start + 8 * count:
        raise ValueError(f"it has {size_of(path)} bytes, not {start + 8 * count}")
    if is_local(path) and count:
        return np.memmap(path, np.int64, "r", offset=start, shape=shape)
    return np.frombuffer(file.read(), np.int64).reshape(shape)
