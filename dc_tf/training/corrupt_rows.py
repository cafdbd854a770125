"""Gathers the corrupt rows that the workers have found.

corrupt_rows(rows, cluster.world)      # the same on every worker
"""

import numpy as np

from dc_tf.distributed.blocks import gather_rows
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
    first = counts[: comm.rank].sum()
    rows = np.unique(gather_rows(mine, range(first, first + len(mine)), counts.sum(), comm))
    if len(rows) > fallback.allowed:
        raise DataError(
            f"{len(rows)} rows are corrupt over all workers; data.max_bad_share allows "
            f"{fallback.allowed:g}. The log names each; restore the data, or raise the setting."
        )
    return rows
