"""Gathers the corrupt rows that the workers have found.

corrupt_rows(rows, cluster.world)      # the same on every worker
"""

import numpy as np

from dc_tf.distributed.collectives import all_gather
from dc_tf.errors import DataError


def corrupt_rows(fallback, comm) -> np.ndarray:
    """Rows that any worker has found corrupt since it started.

    Args:
        fallback: FallbackRows of this worker.
        comm: Communicator.

    Returns:
        (n,) int64, ascending.

    Raises:
        DataError: on all workers, if there are more than `data.max_bad_share` allows.
    """
    mine = fallback.rows()
    counts = all_gather(len(mine), comm)
    if not counts.any():
        return np.zeros(0, np.int64)
    gathered = np.zeros(counts.sum(), np.int64)
    first = counts[: comm.rank].sum()
    gathered[first : first + len(mine)] = mine
    rows = np.unique(comm.all_sum(gathered).numpy())
    if len(rows) > fallback.allowed:
        raise DataError(
            f"{len(rows)} rows are corrupt over all workers; data.max_bad_share allows "
            f"{fallback.allowed:g}. The log names each; restore the data, or raise the setting."
        )
    return rows
