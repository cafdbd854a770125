"""Which columns of a table hold vectors, and a batch of them as a matrix.

    columns = vector_columns(schema, "x.parquet")
    columns.matrix(batch)            # (n, dim)

A vector is a value of a list column of floating-point numbers, of a fixed size or not; or the
values of several columns of such numbers that a pattern names.
"""

import fnmatch
import typing

import numpy as np

from dc_tf.errors import DataError

_DTYPES = {"halffloat": np.float16, "float": np.float32, "double": np.float64}


class VectorColumns(typing.NamedTuple):
    """Columns of one table that make a vector of each row.

    Attributes:
        names: of one list column, or of columns of numbers.
        dtype: of the numbers, float16, float32 or float64.
        dim: components; None where it is known from the rows only.
    """

    names: tuple[str, ...]
    dtype: np.dtype
    dim: int | None

    def matrix(self, batch) -> np.ndarray:
        """(n, dim) of `dtype` from a pyarrow.RecordBatch that has these columns.

        A component without a value becomes NaN.

        Raises:
            ValueError: (position in the batch, what is wrong) of a row that is no vector.
        """
        columns = [batch.column(batch.schema.get_field_index(name)) for name in self.names]
        if self.dim is not None and len(self.names) == self.dim and not _is_list(columns[0].type):
            values = [column.to_numpy(zero_copy_only=False) for column in columns]
            return np.stack(values, axis=1).astype(self.dtype, copy=False)
        return _list_matrix(_storage(columns[0]), self.dim, self.dtype)


def vector_columns(schema, path: str, column: str | None = None) -> VectorColumns:
    """The columns with vectors.

    Args:
        schema: pyarrow.Schema.
        path: of the table, for messages.
        column: a name, a pattern of names such as "f*", or None for the only list column.

    Raises:
        DataError: there is none, or there are several; names those there are.
    """
    lists = [field.name for field in schema if _number_type(field.type, lists=True)]
    if column is None:
        if len(lists) != 1:
            raise _none_or_several(schema, path, lists)
        column = lists[0]
    if column in schema.names:
        kind = _number_type(schema.field(column).type, lists=True)
        if kind is None:
            raise DataError(
                f"{path}: column {column} holds {schema.field(column).type}, and vectors are lists "
                f"of floating-point numbers; {_those_there_are(schema, lists)}."
            )
        return VectorColumns((column,), kind, _fixed_size(schema.field(column).type))
    numbers = [field for field in schema if _number_type(field.type, lists=False)]
    matching = [field for field in numbers if fnmatch.fnmatchcase(field.name, column)]
    if not matching:
        raise DataError(f"{path} has no column {column}; {_those_there_are(schema, lists)}.")
    dtype = np.result_type(*(_number_type(field.type, lists=False) for field in matching))
    return VectorColumns(tuple(field.name for field in matching), dtype, len(matching))


def _none_or_several(schema, path, lists):
    if lists:
        return DataError(
            f"{path} has vectors in the columns {', '.join(lists)}; name one with --column."
        )
    return DataError(
        f"{path} has no column of vectors (lists of floating-point numbers); "
        f"{_those_there_are(schema, lists)}. A pattern, --column='f*', takes columns of one number "
        "each."
    )


def _those_there_are(schema, lists):
    if lists:
        return f"columns of vectors are {', '.join(lists)}"
    shown = ", ".join(f"{field.name} ({field.type})" for field in list(schema)[:8])
    more = ", ..." if len(schema) > 8 else ""
    return f"its columns are {shown}{more}"


def _number_type(kind, lists):
    """dtype of the floating-point numbers of a column or of its lists; None for other types."""
    import pyarrow as pa

    kind = getattr(kind, "storage_type", kind)
    if lists:
        if not _is_list(kind):
            return None
        kind = kind.value_type
    if pa.types.is_floating(kind):
        return np.dtype(_DTYPES[str(kind)])
    return None


def _is_list(kind):
    import pyarrow as pa

    kind = getattr(kind, "storage_type", kind)
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _fixed_size(kind):
    import pyarrow as pa

    kind = getattr(kind, "storage_type", kind)
    return kind.list_size if pa.types.is_fixed_size_list(kind) else None


def _storage(column):
    return getattr(column, "storage", column)


def _list_matrix(column, dim, dtype):
    import pyarrow.compute as pc

    if column.null_count:
        position = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise ValueError(position, "has no vector")
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != (lengths[0] if dim is None and len(lengths) else dim))
    if wrong.size:
        length = int(lengths[wrong[0]])
        raise ValueError(int(wrong[0]), f"has {length} components and others have {dim}")
    values = column.flatten().to_numpy(zero_copy_only=False)
    width = dim if dim is not None else int(lengths[0]) if len(lengths) else 0
    return values.astype(dtype, copy=False).reshape(len(column), width)
