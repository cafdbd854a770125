"""The file that each row of features was computed from, as the records of a data set name it.

    reader = NamingReader(dataset)
    ...                                         # reads images through it, in any order
    write_used_sources(file, rows, FallbackRows(reader, 0))

Names come from the records that are read for their images, so they cost no further reading.
"""

from dc_tf.data.storage import row_sources, schema
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
            self._sources[int(row)] = self._named(record)
        return records

    def source(self, row: int) -> str:
        """The source of a row; "" if its record names none. Reads the record if need be."""
        if row not in self._sources:
            self.read([row], corrupt=b"")
        return self._sources[row]

    def _named(self, record):
        try:
            return schema.source_of(record, self.dataset.features)
        except ValueError:  # a corrupt record, which FallbackRows reports
            return ""

    def forget(self, rows) -> None:
        """Drops the sources of some rows, so that memory does not grow with the data set."""
        for row in map(int, rows):
            self._sources.pop(row, None)


def write_used_sources(file, rows, fallback) -> None:
    """Writes a line for each row to an open binary file, as `row_sources.write_sources`.

    Args:
        file: binary file.
        rows: (n,) integers.
        fallback: FallbackRows of the NamingReader of their images. A row that it has replaced has
            the source of the image that was used, and its number as `replaced_by`.
    """
    for row in map(int, rows):
        used = fallback.replacement(row)
        file.write(row_sources.line(row, fallback.reader.source(used), used))
