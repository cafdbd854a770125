"""The file that each row of features was computed from, as the records of a data set name it.

    reader = NamingReader(dataset)
    ...                                         # reads images through it, in any order
    write_sources(file, rows, FallbackRows(reader, 0))

One JSON object per line: {"row": 7, "source": "dogs/rex.jpg"}. Names come from the records that are
read for their images, so they cost no further reading.
"""

import json

from dc_tf.data.storage import schema
from dc_tf.data.storage.reader import RowReader


class NamingReader(RowReader):
    """Keeps the sources of the records that it reads until they are taken. Thread-safe."""

    def __init__(self, dataset):
        super().__init__(dataset)
        self._sources = {}

    def read(self, row_ids, corrupt=None) -> list[bytes]:
        """As of `RowReader`."""
        records = super().read(row_ids, corrupt)
        for row, record in zip(row_ids, records, strict=True):
            self._sources[int(row)] = _source(record, self.dataset.features)
        return records

    def source(self, row: int) -> str:
        """The source of a row; "" if its record names none. Reads the record if need be."""
        if row not in self._sources:
            self.read([row], corrupt=b"")
        return self._sources[row]

    def forget(self, rows) -> None:
        """Drops the sources of some rows, so that memory does not grow with the data set."""
        for row in map(int, rows):
            self._sources.pop(row, None)


def write_sources(file, rows, fallback) -> None:
    """Writes a line for each row to an open binary file.

    Args:
        file: binary file.
        rows: (n,) integers.
        fallback: FallbackRows of the NamingReader of their images. A row that it has replaced has
            the source of the image that was used, and its number as `replaced_by`.
    """
    for row in map(int, rows):
        used = fallback.replacement(row)
        line = {"row": row, "source": fallback.reader.source(used)}
        if used != row:
            line["replaced_by"] = used
        file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def _source(record, features):
    try:
        return schema.decode_example(record, features)["source"]
    except ValueError:  # a corrupt record, which FallbackRows reports
        return ""
