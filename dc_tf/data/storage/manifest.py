"""A data set folder: TFRecord shards, an index beside each, and the manifest that names them.

    dataset = Dataset.open("/data/mine")
    dataset.rows, dataset.labels(), dataset.locate([7, 0])

`manifest.json` is written last, so a folder that has one is complete. A row id is a position in
manifest order, 0..N-1, and identifies an image for as long as the data set exists. Paths may be
anything that `tf.io.gfile` reads. `writer.DatasetWriter` writes such a folder; `index_tfrecords`
makes one whose shards are existing TFRecord files, in any folder. A view (`view.write_view`) has no
shards of its own: it lists rows of another data set, and its row ids are positions in that list.

Folder:
    shard-00000-of-00002.tfrecord             records
    shard-00000-of-00002.tfrecord.index.npy   (n, 3) int64: offset of the record's payload and its
                                              length, in bytes; label (-1: none)
    manifest.json                             schema version, rows, shards with checksums, classes

Folder of a view:
    rows.npy                                  (n,) int64 row ids of the base data set, none twice
    manifest.json                             schema version, rows, path and fingerprint of the base
"""

import contextlib
import copy
import dataclasses
import hashlib
import io
import json
import os
import shlex
from collections.abc import Iterator

import numpy as np

from dc_tf.data.storage import files
from dc_tf.data.storage.files import is_local
from dc_tf.data.storage.int64_file import read_int64
from dc_tf.data.storage.row_list import VIEW, RowList
from dc_tf.data.storage.schema import OURS, Features
from dc_tf.data.storage.tfrecord import FOOTER_BYTES, HEADER_BYTES
from dc_tf.errors import DataError

MANIFEST = "manifest.json"
STAGING_FOLDER = ".writing"  # of an unfinished data set, inside its folder
INDEX_SUFFIX = ".index.npy"
SCHEMA_VERSION = 1
# Key of a manifest whose shards were there before it, so they are not removed with the data set.
INDEXED_IN_PLACE = "indexed_in_place"


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

    Shards and what concerns them (`offsets`, `index`, `shard_path`) are files; of a view they are
    those of the base data set, and hold other rows too. Everything else is about the rows.

    Attributes:
        path: str.
        rows: int, N.
        shards: tuple of Shard.
        class_names: tuple of str, or None without classes.
        features: Features, the feature names of the records.
        origin: dict, source and settings that the data set was made with; {} if not recorded.
        offsets: (shards + 1,) int64, the first row id of each shard, then the number of all rows in
            the shards.
        base: of a view, the Dataset with the shards; else None.
        row_list: of a view, the RowList of its rows; else None.
    """

    base = None
    row_list = None

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
        self._folder = path
        self._indexes = {}

    @classmethod
    def open(cls, path) -> "Dataset":
        """Opens a complete data set.

        Raises:
            DataError: the folder is missing, incomplete, or of an unknown schema version; or it is
                a view whose base is missing or has changed.
        """
        path = os.fspath(path)
        manifest = read_manifest(path)
        if VIEW in manifest:
            return cls._open_view(path, manifest)
        with _corrupt_manifest(path):
            dataset = cls(path, manifest)
        if dataset.rows != manifest.get("rows"):
            raise DataError(
                f"{os.path.join(path, MANIFEST)} is corrupt: it counts {manifest.get('rows')} "
                f"rows, but its shards have {dataset.rows}."
            )
        return dataset

    @classmethod
    def _open_view(cls, path, manifest):
        with _corrupt_manifest(path):
            rows = RowList.read(path, manifest[VIEW], manifest["rows"])
            origin = dict(manifest.get("origin") or {})
        base = _open_base(path, rows)
        if base.fingerprint() != rows.fingerprint:
            raise DataError(
                f"the view {path} lists rows of {base.path}, which has changed: it had "
                f"{rows.fingerprint}, now {base.fingerprint()}; restore that data set, or make the "
                f"view again."
            )
        return base.view(path, rows, origin)

    def view(self, path, row_list, origin) -> "Dataset":
        """A data set of some rows of this one, which must not be a view itself.

        Args:
            path: its folder.
            row_list: RowList of rows of this data set.
            origin: dict, how it was made.
        """
        view = copy.copy(self)
        view.path, view.origin, view.base = path, origin, self
        view.row_list, view.rows = row_list, len(row_list.row_ids)
        return view

    def fingerprint(self) -> str:
        """A str that identifies the contents: equal for copies, different after any change."""
        if self.row_list is not None:
            checksums = [self.row_list.fingerprint, self.row_list.checksum]
        else:
            checksums = [shard.checksum for shard in self.shards]
        return f"{self.rows} rows, {checksum(hashlib.sha256(json.dumps(checksums).encode()))}"

    def labels(self) -> np.ndarray:
        """Labels of all rows, (N,) int32, -1 where a row has none."""
        return np.concatenate([entries[:, 2].astype(np.int32) for entries in self.entries()])

    def entries(self) -> Iterator:
        """Yields the index entries of all rows in order, (n, 3) int64 at a time: see `index`."""
        if self.row_list is None:
            yield from map(self.index, range(len(self.shards)))
        else:
            for row_ids in self.row_list.blocks():
                yield self.base.locate(row_ids)[1]

    def used_shards(self) -> np.ndarray:
        """(n,) int64 numbers of the shards that hold rows of this data set, ascending."""
        if self.row_list is None:
            return np.arange(len(self.shards))
        used = np.zeros(len(self.shards), bool)
        for row_ids in self.row_list.blocks():
            used[self.base.locate(row_ids)[0]] = True
        return np.flatnonzero(used)

    def stored_bytes(self) -> int:
        """Bytes that the rows take in the shards."""
        if self.row_list is None:
            return sum(shard.bytes for shard in self.shards)
        payload = sum(int(entries[:, 1].sum()) for entries in self.entries())
        return payload + self.rows * (HEADER_BYTES + FOOTER_BYTES)

    def base_rows(self, row_ids) -> np.ndarray:
        """(n,) int64 rows of the data set with the shards that some rows, (n,) integers, are.

        Raises:
            DataError: a row id outside [0, N).
        """
        row_ids = np.asarray(row_ids, np.int64)
        if row_ids.size and (row_ids.min() < 0 or row_ids.max() >= self.rows):
            wrong = row_ids[(row_ids < 0) | (row_ids >= self.rows)][0]
            raise DataError(
                f"row {wrong} is not in {self.path}, which has rows 0..{self.rows - 1}."
            )
        return row_ids if self.row_list is None else np.asarray(self.row_list.row_ids[row_ids])

    def locate(self, row_ids) -> tuple[np.ndarray, np.ndarray]:
        """Finds shard, offset, length and label of rows.

        Args:
            row_ids: (n,) integers in [0, N), in any order, repeats allowed.

        Returns:
            shard (n,) int64 numbers, and (n, 3) int64 index entries: offset, length, label.

        Raises:
            DataError: a row id outside [0, N).
        """
        row_ids = self.base_rows(row_ids)
        if self.base is not None:
            return self.base.locate(row_ids)
        shards = np.searchsorted(self.offsets, row_ids, side="right") - 1
        entries = np.empty((len(row_ids), 3), np.int64)
        order = np.argsort(shards, kind="stable")
        numbers, starts = np.unique(shards[order], return_index=True)
        # Of no rows there are no shards, but one empty part.
        for number, chosen in zip(numbers, np.split(order, starts[1:]), strict=False):
            entries[chosen] = self.index(number)[row_ids[chosen] - self.offsets[number]]
        return shards, entries

    def describe(self, row_id) -> str:
        """Names a row for an error message: its id, shard and byte offset."""
        (shard,), (entry,) = self.locate([row_id])
        return f"row {row_id} ({self.shard_path(shard)}, offset {entry[0]}, {entry[1]} bytes)"

    def shard_path(self, number) -> str:
        """Path of a shard's TFRecord file."""
        name = self.shards[number].name
        return os.path.join(self._folder, name) if is_local(name) else name

    def index_path(self, number) -> str:
        """Path of a shard's index, always in the folder of the data set with the shards."""
        name = os.path.basename(self.shards[number].name)
        return os.path.join(self._folder, name + INDEX_SUFFIX)

    def index(self, number) -> np.ndarray:
        """Index of a shard, (rows, 3) int64: offset, length, label; memory-mapped if local."""
        number = int(number)
        if number not in self._indexes:
            self._indexes[number] = self._load_index(number)
        return self._indexes[number]

    def _load_index(self, number):
        path, rows = self.index_path(number), self.shards[number].rows
        try:
            return read_int64(path, (rows, 3))
        except Exception as error:  # NumPy raises any exception on a corrupt header.
            raise DataError(
                f"the index {path} cannot be read: {error}. `dc_tf index --input={self._folder}` "
                f"rebuilds it."
            ) from error


def is_indexed_in_place(manifest: dict) -> bool:
    """Whether the shards of a manifest were there before it."""
    return bool(manifest.get(INDEXED_IN_PLACE))


def _open_base(path, rows):
    """The base data set of the view in a folder."""
    if not files.exists(os.path.join(rows.base, MANIFEST)):
        raise DataError(
            f"the view {path} lists rows of the data set {rows.base}, which is not there; move it "
            f"back, or make the view again."
        )
    try:
        if VIEW in read_manifest(rows.base):
            raise DataError(f"{rows.base} is a view itself.")
        return Dataset.open(rows.base)
    except DataError as error:
        raise DataError(
            f"the view {path} lists rows of {rows.base}, which cannot be opened: {error}"
        ) from error


@contextlib.contextmanager
def _corrupt_manifest(path):
    """Turns what wrong values in a manifest raise into a DataError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, OverflowError, ValueError) as error:
        raise DataError(
            f"{os.path.join(path, MANIFEST)} is corrupt ({error!r}); restore it from a copy, or "
            "make the data set again."
        ) from error


def read_manifest(path) -> dict:
    """The manifest of a complete data set, as a dict.

    Raises:
        DataError: it is missing, corrupt, or of an unknown schema version.
    """
    place = os.path.join(path, MANIFEST)
    try:
        with files.open_binary(place) as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(_without_manifest(path)) from error
    except OSError as error:
        raise DataError(_unreadable(place, error)) from error
    try:
        manifest = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{place} is corrupt: {_reason(text, error)}; restore it from a copy, or make the data "
            "set again."
        ) from error
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


def _unreadable(place, error) -> str:
    """Why a manifest that is there cannot be opened."""
    if files.is_folder(place):
        return f"{place} is a folder; a data set has a file of that name."
    reason = error.strerror or error
    return f"{place} cannot be read: {reason}; make it readable for this user."


def _reason(text, error) -> str:
    if not text.strip():
        return "it is empty"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text, byte {error.start} is 0x{text[error.start]:02X}"
    if isinstance(error, json.JSONDecodeError):
        cut = error.pos >= len(error.doc.rstrip()) or "Unterminated" in error.msg
        return f"it is truncated after {len(text)} bytes" if cut else str(error)
    return str(error)


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
