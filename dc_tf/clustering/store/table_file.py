"""Rows of vectors in a Parquet or Arrow file, read as a matrix without holding the file in memory.

    file = TableFile.open("x.parquet", column="embedding")
    file.rows, file.dim, file.open_rows().read(0, 10)

Such files are compressed and can be decoded in order only. So reading continues where it stopped,
and the last blocks are kept for threads that read a little out of order. A pass in order decodes
once; rows at scattered positions cost a pass over the row groups that they are in.
"""

import collections
import itertools
import os
import threading
import typing
from collections.abc import Iterator

import numpy as np

from dc_tf.clustering.store.vector_columns import VectorColumns, vector_columns
from dc_tf.errors import DataError
from dc_tf.record_batches import Groups, open_groups

if typing.TYPE_CHECKING:
    import pyarrow

# Rows are decoded in blocks of about so many bytes, of which the last few are kept.
_BLOCK_BYTES = 8 << 20
_KEPT_BLOCKS = 8


class TableFile:
    """The vectors of one table; safe to use from several threads.

    Attributes:
        path: of the file.
        rows, dim: shape of the matrix.
        dtype: of its numbers, float16, float32 or float64.
        names: of all columns of the table.
    """

    def __init__(self, path: str, groups: Groups, columns: VectorColumns, dim: int):
        self.path = path
        self.rows = groups.rows
        self.dim = dim
        self.dtype = columns.dtype
        self.names = tuple(groups.schema.names)
        self._groups = groups
        self._columns = columns._replace(dim=dim)
        self._block_rows = max(1, _BLOCK_BYTES // (dim * self.dtype.itemsize))
        self._starts = np.cumsum([0, *groups.sizes])
        self._lock = threading.Lock()
        self._next = -1  # the row at which `_blocks` continues; -1: nowhere
        self._blocks = iter(())
        self._kept = collections.OrderedDict()  # {first row: matrix}

    @classmethod
    def open(cls, path: str, column: str | None = None) -> "TableFile":
        """Reads the schema and, of lists without a fixed size, the first row.

        Args:
            path: of a Parquet file, or of an Arrow file or stream.
            column: as of `vector_columns`.

        Raises:
            DataError: the file is corrupt or has no such vectors; says what it has.
        """
        groups = open_groups(path)
        columns = vector_columns(groups.schema, path, column)
        dim = columns.dim if columns.dim is not None else _first_length(path, groups, columns)
        if not dim:
            raise DataError(f"{path}: column {columns.names[0]} has vectors without components.")
        return cls(path, groups, columns, dim)

    def open_rows(self) -> "TableFile":
        """The rows themselves."""
        return self

    def read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, dim) of `dtype`.

        Raises:
            DataError: the file is corrupt, or a row is no vector of `dim` components.
        """
        rows = np.empty((stop - start, self.dim), self.dtype)
        with self._lock:
            filled = start
            while filled < stop:
                first, block = self._block(filled)
                count = min(stop, first + len(block)) - filled
                rows[filled - start : filled - start + count] = block[filled - first :][:count]
                filled += count
        return rows

    def take(self, positions) -> np.ndarray:
        """(n, dim) of `dtype`: the rows at `positions` (n,), in that order; errors as of `read`."""
        positions = np.asarray(positions, np.int64)
        rows = np.empty((len(positions), self.dim), self.dtype)
        order = np.argsort(positions, kind="stable")
        with self._lock:
            done = 0
            while done < len(order):
                first, block = self._block(int(positions[order[done]]))
                upto = np.searchsorted(positions, first + len(block), sorter=order)
                own = order[done:upto]
                rows[own] = block[positions[own] - first]
                done = int(upto)
        return rows

    def column_type(self, column: str) -> "pyarrow.DataType":
        """Type of the values of a column."""
        return self._groups.schema.field(column).type

    def ids(self, column: str) -> Iterator:
        """Yields pyarrow arrays of another column, in row order.

        Raises:
            DataError: the file is corrupt.
        """
        for group in range(len(self._groups.sizes)):
            for batch in self._groups.batches(group, 1 << 16, (column,)):
                yield batch.column(0)

    def _block(self, row):
        """(first row, matrix) of the block that has `row`."""
        for first, block in self._kept.items():
            if first <= row < first + len(block):
                return first, block
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if not self._starts[group] <= self._next <= row:
            self._seek(group)
        while self._next <= row:
            block = self._next_block()
        return block

    def _next_block(self):
        """(first row, matrix) of the block at which reading continues."""
        at, self._next = self._next, -1  # nothing continues after an error
        first, block = next(self._blocks)
        self._kept[first] = block
        if len(self._kept) > _KEPT_BLOCKS:
            self._kept.popitem(last=False)
        self._next = at + len(block)
        if self._next == self.rows:
            self._blocks = iter(())  # closes the file
        return first, block

    def _seek(self, group):
        self._next = int(self._starts[group])
        groups = range(group, len(self._groups.sizes))
        self._blocks = itertools.chain.from_iterable(map(self._blocks_of, groups))

    def _blocks_of(self, group):
        """Yields (first row, matrix) of a group's blocks."""
        row = int(self._starts[group])
        for batch in self._groups.batches(group, self._block_rows, self._columns.names):
            yield row, _matrix(self.path, self._columns, batch, row)
            row += batch.num_rows
        if row != self._starts[group + 1]:
            raise DataError(f"{self.path} ends at row {row}; it is corrupt, write it again.")


def is_table(path: str) -> bool:
    """Whether a file begins like Parquet or Arrow."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(6).startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"))


def _first_length(path, groups, columns):
    """Components of the first row of a table whose lists have no fixed size."""
    for group in range(len(groups.sizes)):
        for batch in groups.batches(group, 1, columns.names):
            if batch.num_rows:
                return _matrix(path, columns, batch.slice(0, 1), 0).shape[1]
    raise DataError(f"{path} has no rows.")


def _matrix(path, columns, batch, first_row):
    try:
        return columns.matrix(batch)
    except ValueError as error:
        position, problem = error.args
        raise DataError(
            f"row {first_row + position} of {path} {problem} in column {columns.names[0]}; remove "
            "such rows, or embed their images again."
        ) from error
