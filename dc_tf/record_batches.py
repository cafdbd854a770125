"""The record batches of a Parquet file, an Arrow file or an Arrow stream, by group and column.

groups = open_groups("x.parquet")
for batch in groups.batches(0, 4096, ("embedding",)): ...
"""

import contextlib
import typing
from collections.abc import Iterator

from dc_tf.errors import DataError


class Groups(typing.Protocol):
    """Parts of a table that can be read by themselves.

    Attributes:
        schema: pyarrow.Schema.
        sizes: rows of each part.
        rows: of all parts.
    """

    schema: typing.Any
    sizes: tuple[int, ...]
    rows: int

    def batches(self, group: int, rows: int, names: tuple[str, ...]) -> Iterator:
        """Yields the pyarrow.RecordBatches of a part, of at most `rows` rows and these columns."""


def open_groups(path: str, opener: typing.Callable | None = None) -> Groups:
    """The parts of a table, by the first bytes of its file.

    Args:
        path: of the file.
        opener: function of a path to a seekable binary file; None: a local file.

    Raises:
        DataError: it cannot be read, or is corrupt.
    """
    try:
        with (opener or _open_local)(path) as file:
            is_parquet = file.read(4) == b"PAR1"
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; give a file that exists and that this user "
            "may read."
        ) from error
    return (ParquetGroups if is_parquet else ArrowGroups)(path, opener)


class ParquetGroups:
    """The row groups of a Parquet file; attributes as of `Groups`.

    Raises:
        DataError: as `open_groups`.
    """

    def __init__(self, path, opener=None):
        self._path = path
        self._opener = opener or _open_local
        with self._opened() as file:
            about = file.metadata
            self.schema = file.schema_arrow
            self.sizes = tuple(about.row_group(i).num_rows for i in range(about.num_row_groups))
        self.rows = sum(self.sizes)

    def batches(self, group, rows, names) -> Iterator:
        """As of `Groups`; the file is open while they are read."""
        with self._opened() as file:
            yield from file.iter_batches(rows, row_groups=[group], columns=list(names))

    @contextlib.contextmanager
    def _opened(self):
        import pyarrow.parquet as pq

        with (
            _table_errors(self._path),
            self._opener(self._path) as file,
            pq.ParquetFile(file) as table,
        ):
            yield table


class ArrowGroups:
    """All record batches of an Arrow file or stream as one part; attributes as of `Groups`.

    A local file is mapped into memory, so batches that are passed over cost nothing.

    Raises:
        DataError: as `open_groups`.
    """

    def __init__(self, path, opener=None):
        self._path = path
        self._opener = opener or _map_local
        with self._opened() as batches:
            self.schema = batches.schema
            self.rows = sum(batch.num_rows for batch in batches)
        self.sizes = (self.rows,)

    def batches(self, group, rows, names) -> Iterator:
        """As of `Groups`."""
        with self._opened() as batches:
            for batch in batches:
                batch = batch.select(list(names))
                for start in range(0, batch.num_rows, rows):
                    yield batch.slice(start, rows)

    @contextlib.contextmanager
    def _opened(self):
        """An iterable of record batches with a schema."""
        import pyarrow as pa

        with _table_errors(self._path), self._opener(self._path) as file:
            is_file = file.read(6) == b"ARROW1"
            file.seek(0)
            yield _FileBatches(pa.ipc.open_file(file)) if is_file else pa.ipc.open_stream(file)


class _FileBatches:
    """The batches of an Arrow file, iterated as those of a stream are."""

    def __init__(self, reader):
        self.schema = reader.schema
        self._reader = reader

    def __iter__(self):
        return map(self._reader.get_batch, range(self._reader.num_record_batches))


def _open_local(path):
    return open(path, "rb")


def _map_local(path):
    import pyarrow as pa

    return pa.memory_map(path)


@contextlib.contextmanager
def _table_errors(path):
    """DataError in place of pyarrow's errors."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{path} cannot be read as a table: {reason}; write it again.") from error
