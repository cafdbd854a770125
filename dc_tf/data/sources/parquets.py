"""Images inside Parquet and Arrow tables, as Hugging Face data sets are stored.

    source = ParquetSource(["data/train-00000-of-00002.parquet", ...])

A column holds the images: encoded bytes, or structs of `bytes` and `path`. Another one holds the
labels: numbers, whose names the tables may state (`ClassLabel`), or names. All other columns become
metadata. Rows are read a few at a time.
"""

import datetime
import json
import os
from collections.abc import Iterator

from absl import logging

from dc_tf.data.sources.columns import LABEL, Columns, label_of
from dc_tf.data.sources.image_files import MAX_FILE_BYTES
from dc_tf.data.sources.item import Item, short_name
from dc_tf.data.storage.files import is_local, open_binary, size_of
from dc_tf.data.storage.metadata import bounded
from dc_tf.errors import ConfigError, DataError
from dc_tf.record_batches import open_groups

_SUFFIXES = (".parquet", ".arrow", ".feather")
_ROWS = 32  # of images at once
_LABEL_ROWS = 1 << 14


class ParquetSource:
    """The images of some tables, one table after the other.

    Args:
        paths: of the tables.
        column: with the images; None: the only one that may have some.
        label_column: with the labels; "": none; None: `label`, else the only one whose names the
            tables state.

    Raises:
        ConfigError: there is no such column, or there are several; or tables differ in theirs.
        DataError: a table cannot be read.
    """

    def __init__(self, paths, column=None, label_column=None):
        self._paths = list(paths)
        self._tables = [open_groups(path, _opener(path)) for path in self._paths]
        names = [
            _image_column(table.schema, p, column)
            for p, table in zip(paths, self._tables, strict=True)
        ]
        self._column = names[0]
        self._label = _label_column(self._tables[0].schema, paths[0], label_column)
        for path, name, table in zip(self._paths, names, self._tables, strict=True):
            if name != self._column or self._names_in(table) != self._stated_names:
                raise ConfigError(
                    f"{path} has other columns or classes than {self._paths[0]}; convert tables of "
                    "one data set together."
                )
        self.total = sum(table.rows for table in self._tables)
        self._columns = Columns(untyped=False)
        self.class_names = self._stated_names or self._found_names()
        self._numbers = {}  # {class name: label} where labels are names
        if not self._stated_names:
            self._numbers = {name: n for n, name in enumerate(self.class_names or ())}
        tables = [[os.path.basename(path), size_of(path)] for path in self._paths]
        self.identity = {"tables": tables, "column": self._column, "label": self._label}

    def items(self, place=None) -> Iterator[Item]:
        first, done = place or (0, 0)
        for number in range(first, len(self._paths)):
            yield from self._rows_of(number, done)
            done = 0

    @property
    def _stated_names(self):
        return self._names_in(self._tables[0])

    def _names_in(self, table):
        """The names that a table states for the labels, or None."""
        return _class_labels(table.schema).get(self._label)

    def _found_names(self):
        """Class names of a column of labels that are text; None for numbers."""
        for table in self._tables:
            if self._label not in table.schema.names:
                return None
            for group in range(len(table.sizes)):
                for batch in table.batches(group, _LABEL_ROWS, (self._label,)):
                    for label in batch.column(0).to_pylist():
                        self._columns.see({LABEL: label})
        return self._columns.class_names()

    def _rows_of(self, number, done):
        """Yields the Items of a table after the first `done` rows."""
        start = 0
        try:
            for start, rows in _batches_after(self._tables[number], done):
                for row, values in enumerate(rows.to_pylist(), start=start):
                    if row >= done:
                        yield self._item(number, row, values)
                start += rows.num_rows
        except DataError as error:
            name = f"{os.path.basename(self._paths[number])}:{start}"
            reason = f"no row from here on can be read: {error}"
            yield Item(name, None, [number + 1, 0], reason=reason)

    def _item(self, number, row, values):
        image = values.pop(self._column)
        name, content, reason = self._image(number, row, image)
        place = [number, row + 1]
        if reason:
            return Item(name, None, place, reason=reason)
        try:
            label = label_of(values.pop(self._label, None), self._numbers)
        except ValueError as error:
            return Item(name, None, place, reason=str(error))
        meta = {key: _storable(value) for key, value in values.items()}
        return Item(name, content, place, label, bounded(meta))

    def _image(self, number, row, image):
        """(name, content or None, reason or None) of a row's image."""
        path = self._paths[number]
        stated, content = None, image
        if isinstance(image, dict):
            stated, content = image.get("path"), image["bytes"]
        name = short_name(stated or f"{os.path.basename(path)}:{row}")
        if content is None and stated and is_local(path):
            beside = os.path.join(os.path.dirname(path), stated)
            if os.path.isfile(beside):
                return name, beside, None
        if content is None:
            return name, None, f"row {row} of {os.path.basename(path)} has no bytes of an image"
        if len(content) > MAX_FILE_BYTES:
            return name, None, f"a file of {len(content)} bytes, more than {MAX_FILE_BYTES}"
        return name, content, None


def is_table(path: str) -> bool:
    """Whether a file is a Parquet or Arrow table, by its name or its content."""
    if path.lower().endswith(_SUFFIXES):
        return True
    with open_binary(path) as file:
        return file.read(6).startswith((b"PAR1", b"ARROW1"))


def _batches_after(table, done):
    """Yields (first row, pyarrow.RecordBatch) without the groups that end before row `done`."""
    start = 0
    for group, size in enumerate(table.sizes):
        if start + size > done:
            first = start
            for batch in table.batches(group, _ROWS, tuple(table.schema.names)):
                yield first, batch
                first += batch.num_rows
        start += size


def _opener(path):
    """How `record_batches` opens a table; None for a local file."""
    return None if is_local(path) else open_binary


def _image_column(schema, path, column):
    """Name of the column with the images."""
    found = [field.name for field in schema if _holds_bytes(field.type)]
    if column is not None:
        if column not in found:
            raise ConfigError(
                f"{path} has no images in a column {column}; columns with bytes are "
                f"{', '.join(found) or 'none'}."
            )
        return column
    if not found:
        raise ConfigError(
            f"{path} has no column with bytes, so no images; its columns are "
            f"{', '.join(schema.names)}."
        )
    if len(found) > 1:
        raise ConfigError(
            f"{path} has bytes in the columns {', '.join(found)}; name the one with the images "
            "with --image_column."
        )
    return found[0]


def _holds_bytes(kind):
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _label_column(schema, path, asked):
    """Name of the column with the labels, or None."""
    if asked is not None:
        if asked and asked not in schema.names:
            raise ConfigError(
                f"{path} has no column {asked} for --label_column; its columns are "
                f"{', '.join(schema.names)}."
            )
        return asked or None
    if LABEL in schema.names:
        return LABEL
    found = [name for name in _class_labels(schema) if name in schema.names]
    if len(found) > 1:
        raise ConfigError(
            f"{path} has labels in the columns {', '.join(found)}; name one of them with "
            "--label_column, or none with --label_column=."
        )
    if found:
        logging.info("labels are of the column %s, whose class names %s states.", found[0], path)
    return found[0] if found else None


def _class_labels(schema) -> dict[str, list[str]]:
    """{column: class names} that a Hugging Face data set states."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        features = about["info"]["features"].items()
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
    return {
        column: [str(name) for name in feature["names"]]
        for column, feature in features
        if isinstance(feature, dict) and isinstance(feature.get("names"), list)
    }


def _storable(value):
    """Dates as text; anything else as it is."""
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value
