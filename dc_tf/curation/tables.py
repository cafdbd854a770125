"""Writes tables of rows: Parquet, CSV or JSON, by the ending of the file's name.

    with TableWriter("duplicates.parquet", {"group": "int64", "source": "string"}) as table:
        table.write({"group": [0, 0], "source": ["a.jpg", "b.jpg"]})    # any number of times

The file is complete or absent, and only the batch at hand is in memory.
"""

import contextlib
import json
import os

from dc_tf import atomic
from dc_tf.errors import ConfigError
from dc_tf.paths import check_file

ENDINGS = (".parquet", ".csv", ".json")
_SEPARATOR = "; "  # of several values in a cell of CSV


def check_table_path(path, setting="--output", endings=ENDINGS) -> None:
    """Refuses a table that could not be written.

    Raises:
        ConfigError: an unknown ending, or no such folder.
    """
    if os.path.splitext(path)[1].lower() not in endings:
        raise ConfigError(
            f"{setting}={path} has no known ending; use {', '.join(endings[:-1])} or {endings[-1]}."
        )
    check_file(path, setting)


class TableWriter:
    """A table in the making; a context manager.

    Args:
        path: with one of `ENDINGS`.
        columns: {name: name of an Arrow type, such as "int64", "float32", "bool", "string"}, or a
            pyarrow.Schema. A cell with a list has its values with "; " between them in CSV.
    """

    def __init__(self, path, columns):
        import pyarrow

        self._path = path
        if isinstance(columns, dict):
            columns = [(name, pyarrow.type_for_alias(kind)) for name, kind in columns.items()]
        self._schema = pyarrow.schema(columns)
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        staging = self._stack.enter_context(atomic.replacing(self._path))
        ending = os.path.splitext(self._path)[1].lower()
        open_writer = {".parquet": _parquet, ".csv": _CsvWriter, ".json": _JsonWriter}[ending]
        self._writer = self._stack.enter_context(open_writer(staging, self._schema))
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def write(self, batch) -> None:
        """Adds rows: {name: array or list of n values} of all columns, or a pyarrow.Table."""
        import pyarrow

        if not isinstance(batch, pyarrow.Table):
            batch = pyarrow.table(dict(batch), schema=self._schema)
        self._writer.write_table(batch)


def _parquet(path, schema):
    import pyarrow.parquet

    return pyarrow.parquet.ParquetWriter(path, schema, compression="zstd")


class _CsvWriter:
    """CSV, which has no lists."""

    def __init__(self, path, schema):
        import pyarrow.csv

        self._file = pyarrow.csv.CSVWriter(path, _without_lists(schema.empty_table()).schema)

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *error):
        return self._file.__exit__(*error)

    def write_table(self, table):
        self._file.write_table(_without_lists(table))


def _without_lists(table):
    """The table with a text in place of each list."""
    import pyarrow
    import pyarrow.compute

    for place, field in enumerate(table.schema):
        if pyarrow.types.is_list(field.type):
            lists = table[field.name].cast(pyarrow.list_(pyarrow.string()))
            texts = pyarrow.compute.binary_join(lists, _SEPARATOR)
            table = table.set_column(place, field.name, texts)
    return table


class _JsonWriter:
    """A JSON array with an object for each row."""

    def __init__(self, path, schema):
        self._path = path
        self._separator = "["

    def __enter__(self):
        self._file = open(self._path, "w", encoding="utf-8")
        return self

    def __exit__(self, *_):
        self._file.write("[]\n" if self._separator == "[" else "\n]\n")
        self._file.close()

    def write_table(self, table):
        for row in table.to_pylist():
            self._file.write(f"{self._separator}\n{json.dumps(row)}")
            self._separator = ","
