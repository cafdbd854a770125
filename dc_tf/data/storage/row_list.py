"""What makes a data set a view: the rows of another data set that it consists of.

    rows = RowList.read("/data/balanced", manifest["view"])
    rows.base, rows.row_ids[7]               # the seventh row of the view is this row of the base

`view.write_view` writes one. In the manifest of a view, `view` stands in place of the shards.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterator

import numpy as np

from dc_tf.data.storage.files import is_local
from dc_tf.data.storage.int64_file import read_int64
from dc_tf.errors import DataError

ROWS = "rows.npy"
SOURCES = "sources.jsonl"  # the file of each row, where it was asked for
VIEW = "view"  # name in the manifest
_BLOCK = 1 << 20  # rows


@dataclasses.dataclass(frozen=True)
class RowList:
    """Rows of a base data set, in the order in which a view has them.

    Attributes:
        base: path of the base data set.
        fingerprint: of the base data set when the view was made.
        row_ids: (n,) int64 row ids of the base, memory-mapped if local; none twice.
        checksum: "sha256:..." of the row ids.
    """

    base: str
    fingerprint: str
    row_ids: np.ndarray
    checksum: str

    @classmethod
    def read(cls, path, entry, rows) -> "RowList":
        """The row list of the view in a folder.

        Args:
            path: folder of the view.
            entry: dict, `view` of its manifest.
            rows: number of rows, as the manifest has it.

        Raises:
            TypeError, KeyError: the entry is not one of a view.
            DataError: the row ids are missing or corrupt.
        """
        base, *texts = (entry[name] for name in ("base", "fingerprint", "checksum"))
        if not all(isinstance(text, str) and "\0" not in text for text in (base, *texts)):
            raise TypeError(f"{entry!r} where base, fingerprint and checksum were expected")
        if type(rows) is not int or not 0 < rows < 2**60:
            raise TypeError(f"{rows!r} where a number of rows was expected")
        try:
            row_ids = read_int64(os.path.join(path, ROWS), (rows,))
        except Exception as error:  # NumPy raises any exception on a corrupt header.
            raise DataError(
                f"the row ids {os.path.join(path, ROWS)} of the view {path} cannot be read: "
                f"{error}; make the view again."
            ) from error
        fingerprint, digest = texts
        return cls(_resolved(path, base), fingerprint, row_ids, digest)

    def entry(self, path) -> dict:
        """`view` of the manifest of a view in the folder `path`."""
        return {
            "base": _reference(path, self.base),
            "fingerprint": self.fingerprint,
            "checksum": self.checksum,
        }

    def blocks(self) -> Iterator:
        """Yields the row ids in parts that fit memory."""
        for start in range(0, len(self.row_ids), _BLOCK):
            yield np.asarray(self.row_ids[start : start + _BLOCK])

    def is_intact(self) -> bool:
        """Whether the row ids are those that were written; reads all."""
        return rows_checksum(self.blocks()) == self.checksum


def rows_checksum(blocks) -> str:
    """Checksum of row ids, given as an iterable of (n,) int64 arrays."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(np.ascontiguousarray(block, "<i8").data)
    return f"sha256:{digest.hexdigest()}"


def _reference(path, base):
    """The path of the base as a view in the folder `path` has it: relative if they are neighbours.

    Neighbours, which are moved together, are folders of one parent, and one inside the other's
    parent. Otherwise absolute.
    """
    if not is_local(base):
        return base
    base = os.path.realpath(base)
    if is_local(path):
        path = os.path.realpath(path)
        common = os.path.commonpath([path, base])
        if common in (os.path.dirname(path), os.path.dirname(base), base):
            return os.path.relpath(base, path)
    return base


def _resolved(path, base):
    if not is_local(base) or os.path.isabs(base):
        return base
    return os.path.realpath(os.path.join(path, base))
