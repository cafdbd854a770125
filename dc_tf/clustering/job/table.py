"""The clusters of `dc_tf kmeans` as Parquet: a row for each vector, with the id it came with.

table = ClusterTable("OUT/assignments.parquet", embeddings.files, id_column="name")
table.write("OUT/assignments.npy")
"""

import contextlib
import dataclasses
import itertools
import json
import os

import numpy as np

from dc_tf import atomic
from dc_tf.clustering.store.feature_files import sources_file
from dc_tf.clustering.store.matrix_file import MatrixFile
from dc_tf.clustering.store.table_file import TableFile
from dc_tf.errors import ConfigError, DataError

_ROWS = 1 << 16  # of a batch
ROW, FILE, CLUSTER, SOURCE = "row", "file", "cluster", "source"


@dataclasses.dataclass(frozen=True)
class ClusterTable:
    """A table of row (int64), file, the ids or the sources if there are any, and cluster (int32).

    Features of `dc_tf embed` have sources: the name of the image of each row, from the files that
    lie beside them.

    Attributes:
        path: of the Parquet file.
        files: `MatrixFile`s that were clustered, in row order.
        id_column: of the files, which are tables then; or None.
    """

    path: str
    files: tuple[MatrixFile, ...]
    id_column: str | None

    def write(self, assignments: str) -> None:
        """Writes the table, complete or not at all, in bounded memory.

        Args:
            assignments: path of a `.npy` file, (rows,) int32.

        Raises:
            DataError: an input is gone or corrupt, or the disk is full.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        clusters = np.load(assignments, mmap_mode="r")
        fields = [(ROW, pa.int64()), (FILE, pa.string()), (CLUSTER, pa.int32())]
        if self.id_column:
            fields.insert(2, (self.id_column, _id_type(self.files, self.id_column)))
        elif self._has_sources():
            fields.insert(2, (SOURCE, pa.string()))
        schema = pa.schema(fields)
        try:
            with (
                atomic.replacing(self.path) as staging,
                pq.ParquetWriter(staging, schema) as writer,
            ):
                for first, file, ids, count in self._batches():
                    columns = [np.arange(first, first + count), [file] * count]
                    columns += [] if ids is None else [ids]
                    columns.append(clusters[first : first + count])
                    writer.write_table(pa.table(columns, schema=schema))
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be written: {error.strerror or error}; the clusters are in "
                f"{assignments}. Free space and run the same command again."
            ) from error

    def _batches(self):
        """Yields (first row, name of the file, its ids or sources or None, rows)."""
        first, named = 0, self._has_sources()
        for file in self.files:
            name = os.path.basename(file.path)
            if self.id_column:
                for ids in file.ids(self.id_column):
                    yield first, name, ids, len(ids)
                    first += len(ids)
                continue
            with contextlib.ExitStack() as end:
                lines = end.enter_context(open(sources_file(file.path), "rb")) if named else None
                for start in range(0, file.rows, _ROWS):
                    count = min(_ROWS, file.rows - start)
                    yield first, name, lines and _sources(lines, count), count
                    first += count

    def _has_sources(self):
        return not self.id_column and all(sources_file(file.path) for file in self.files)


def _sources(lines, count):
    return [json.loads(line)["source"] for line in itertools.islice(lines, count)]


def check_id_column(files: tuple[MatrixFile, ...], id_column: str | None) -> None:
    """Refuses a column of ids that a file does not have.

    Raises:
        ConfigError: names the file, and the columns it has.
    """
    if id_column is None:
        return
    if id_column in (ROW, FILE, CLUSTER):
        raise ConfigError(
            f"--id_column={id_column} is a column of the output itself; rename it in the input."
        )
    for file in files:
        if not isinstance(file, TableFile):
            raise ConfigError(f"--id_column={id_column}: {file.path} is not a table and has none.")
        if id_column not in file.names:
            raise ConfigError(
                f"--id_column={id_column}: {file.path} has the columns {', '.join(file.names)}."
            )
    _id_type(files, id_column)


def _id_type(files, id_column):
    kinds = {file.column_type(id_column) for file in files}
    if len(kinds) > 1:
        raise ConfigError(
            f"--id_column={id_column} has the types {', '.join(sorted(map(str, kinds)))} in "
            "different files; write it with one type."
        )
    return kinds.pop()
