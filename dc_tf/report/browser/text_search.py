"""Images by a part of their file name, hashtag, class or other metadata, from a table of all.

    found = search(TextTable.open("RUN/clusters.parquet", rows=1000), "sea", "hashtags")
    found.hits[0].row, found.next_row

The table of `dc_tf clusters` is read in batches, until there are enough hits or the time is over;
the next search continues at `next_row`.
"""

import dataclasses
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dc_tf.curation.clusters.record_parts import (
    CLASS,
    LABEL,
    OF_CLUSTERING,
    OF_CLUSTERS,
    ROW,
    SOURCE,
)
from dc_tf.errors import ConfigError

MOST_HITS = 60
SECONDS = 2.0
_BATCH_ROWS = 1 << 16
_NOT_SEARCHED = (ROW, *OF_CLUSTERING, *OF_CLUSTERS)


@dataclasses.dataclass(frozen=True)
class TextTable:
    """A table of all images of a data set.

    Attributes:
        path: of the Parquet file.
        rows: number of rows.
        columns: {name: whether it holds texts} of the columns that can be searched.
        repeated: columns with texts that repeat in many rows.
    """

    path: str
    rows: int
    columns: dict
    repeated: tuple

    @classmethod
    def open(cls, path: str, rows: int) -> "TextTable | None":
        """The table in a file; None if it is not there, or not of so many rows."""
        try:
            file = pq.ParquetFile(path)
        except (OSError, pa.ArrowInvalid):
            return None
        with file:
            names = file.schema_arrow.names
            if file.metadata.num_rows != rows or not {ROW, SOURCE} <= set(names):
                return None
            columns = {
                field.name: _holds_text(field.type)
                for field in file.schema_arrow
                if field.name not in _NOT_SEARCHED
            }
            repeated = _repeated(file.schema, columns)
        if CLASS in columns:
            columns.pop(LABEL, None)
        return cls(path, rows, columns, repeated)


@dataclasses.dataclass(frozen=True)
class Hit:
    """A row that was found, with the column and the value that were."""

    row: int
    column: str
    value: str


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes:
        hits: list of Hit, by row id.
        next_row: where the next search continues; None at the end of the table.
    """

    hits: list
    next_row: int | None


def search(
    table: TextTable, words: str, column="", first_row=0, most=MOST_HITS, seconds=SECONDS
) -> Found:
    """Looks for a part of a text, whatever its case; in columns of numbers for the number.

    Args:
        table: TextTable.
        words: what to look for.
        column: one of the table; "" for all with texts.
        first_row: row id to begin at.
        most: hits.
        seconds: about so long.

    Raises:
        ConfigError: no such column, or no number for one of numbers.
    """
    if column and column not in table.columns:
        raise ConfigError(f"there is no column {column!r}; use {', '.join(table.columns)}.")
    names = [column] if column else [name for name, is_text in table.columns.items() if is_text]
    test = _contains(words) if not column or table.columns[column] else _equals(words, column)
    hits, ends = [], time.monotonic() + seconds
    # Values that repeat, such as cameras, are compared once; names of files do not.
    with pq.ParquetFile(table.path, read_dictionary=table.repeated) as file:
        for batch in _batches(file, names, first_row):
            hits += _hits(batch, names, test, first_row)
            if len(hits) > most:
                return Found(hits[:most], hits[most].row)
            after = batch[ROW][-1].as_py() + 1
            if time.monotonic() > ends and after < table.rows:
                return Found(hits, after)
    return Found(hits, None)


def _batches(file, names, first_row):
    """Batches of the row groups that hold rows from `first_row` on."""
    groups, start = [], 0
    for number in range(file.num_row_groups):
        start += file.metadata.row_group(number).num_rows
        if start > first_row:
            groups.append(number)
    for batch in file.iter_batches(_BATCH_ROWS, groups, [ROW, *names]):
        if len(batch) and batch[ROW][-1].as_py() >= first_row:
            yield batch


def _hits(batch, names, test, first_row):
    rows = batch[ROW].to_numpy()
    found = {}
    for name in names:
        parents, values = _values(batch[name])
        if pa.types.is_dictionary(values.type):
            matched = test(values.dictionary).take(values.indices)
        else:
            matched = test(values)
        places = np.flatnonzero(pc.fill_null(matched, False).to_numpy(zero_copy_only=False))
        for place in places.tolist():
            row = int(rows[place if parents is None else parents[place]])
            if row >= first_row and row not in found:
                found[row] = Hit(row, name, str(values[place].as_py()))
    return [found[row] for row in sorted(found)]


def _values(column):
    """(position in the column of each value or None for one each, values)."""
    if pa.types.is_list(column.type):
        return pc.list_parent_indices(column).to_numpy(), column.flatten()
    return None, column


def _holds_text(kind):
    kind = kind.value_type if pa.types.is_list(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _repeated(schema, columns):
    """Columns with one text each, but those of files, of which each image has its own.

    Arrow cannot always read lists as dictionaries: where a row group has pages without one, it
    fails ("Nested data conversions not implemented").
    """
    paths = {schema.column(number).path for number in range(len(schema))}
    return tuple(n for n, is_text in columns.items() if is_text and n != SOURCE and n in paths)


def _contains(words):
    return lambda values: pc.match_substring(values, words, ignore_case=True)


def _equals(words, column):
    try:
        number = float(words)
    except ValueError as error:
        raise ConfigError(f"{column} holds numbers; {words!r} is none.") from error
    return lambda values: pc.equal(values.cast(pa.float64()), number)
