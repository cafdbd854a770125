"""How rows are divided among workers: global positions follow the order of ranks.

partition = RowPartition.agree(points, comm)
rows = rows_at(positions, points, comm, partition)     # the same on every worker
"""

import dataclasses

import numpy as np

from dc_tf.clustering.magnitude import too_large
from dc_tf.distributed import blocks
from dc_tf.distributed.collectives import all_gather
from dc_tf.errors import DataError


@dataclasses.dataclass(frozen=True)
class RowPartition:
    """The place of this worker's rows among all.

    Attributes:
        first: position of this worker's first row.
        total: rows of all workers.
    """

    first: int
    total: int

    @classmethod
    def agree(cls, points, comm) -> "RowPartition":
        """The partition of the rows that all workers of `comm` have.

        Raises:
            DataError: on every worker, for rows that differ in length.
        """
        rows, dims = all_gather([points.rows, points.dim], comm).T
        if len(set(dims)) > 1:
            raise DataError(
                f"rows have {dims.tolist()} components on workers 0, 1, ...; use equal lengths."
            )
        return cls(first=int(rows[: comm.rank].sum()), total=int(rows.sum()))


def rows_at(positions, points, comm, partition, dtype=np.float32) -> np.ndarray:
    """(n, dim) of `dtype`: rows of any worker, on every worker.

    Args:
        positions: (n,) int64 in [0, partition.total), the same on all workers.
        dtype: float32 or float64.

    Raises:
        DataError: on every worker, for a row that is not finite, or not in `dtype`.
    """
    rows = _gathered_rows(positions, points, comm, partition, dtype)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        raise bad_row_error(int(positions[bad[0]]), points, comm, partition)
    return rows


def bad_row_error(row, points, comm, partition) -> DataError:
    """Why a row of any worker cannot be used in float32; all workers call this.

    Args:
        row: its position.
    """
    values = _gathered_rows(np.array([row]), points, comm, partition, np.float64)
    if np.isfinite(values).all():
        return too_large(f"row {row}")
    return DataError(f"row {row} is not finite.")


def _gathered_rows(positions, points, comm, partition, dtype):
    local = positions - partition.first
    mine = (0 <= local) & (local < points.rows)

    def my_part(block):
        part = np.zeros((block.stop - block.start, points.dim), dtype)
        with np.errstate(over="ignore"):
            part[mine[block]] = points.take(local[block][mine[block]])
        return part

    rows = np.empty((len(positions), points.dim), dtype)
    row_bytes = rows.itemsize * points.dim
    for block, part in blocks.summed_blocks(len(positions), row_bytes, my_part, comm):
        rows[block] = part
    return rows
