"""The sizes of rows that k-means can compare: their squares are float32 numbers.

check_not_too_small(largest)              # DataError
raise too_large("row 4 of x.npy")
"""

import numpy as np

from dc_tf.errors import DataError

# Squares of smaller numbers lose digits of float32.
_SMALLEST = 1e-17
_ADVICE = "multiply the rows by a constant, or scale each to length 1 with --normalize"


def check_not_too_small(largest: float, what="the largest component of the rows is") -> None:
    """DataError if rows are not all zero and the squares of all their components underflow.

    Args:
        largest: absolute component of all rows.
        what: says what that number is.
    """
    if 0 < largest < _SMALLEST:
        raise DataError(f"{what} {largest:.1e}, too small to be squared in float32; {_ADVICE}.")


def too_large(row: str) -> DataError:
    """The error for a row of finite values whose squared length overflows.

    Args:
        row: its name.
    """
    return DataError(f"{row} is too large to be squared in float32; {_ADVICE}.")


def squared_lengths(rows) -> np.ndarray:
    """(n,) float32 squared lengths of (n, dim) rows; not finite where float32 cannot hold them."""
    with np.errstate(over="ignore", invalid="ignore"):
        rows = rows.astype(np.float32, copy=False)
        return np.einsum("nd,nd->n", rows, rows)


def largest_of(rows, squares) -> float:
    """Largest absolute component of (n, dim) rows, or 1 where it is certainly large enough.

    Args:
        squares: `squared_lengths` of the rows, which make the second case fast.
    """
    if not len(rows) or squares.max() >= 2 * rows.shape[1] * _SMALLEST**2:
        return 1.0 if len(rows) else 0.0
    return float(np.abs(rows.astype(np.float64)).max())
