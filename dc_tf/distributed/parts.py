"""Work in parts, whose results are files of a folder that all workers share.

    for number in own_missing(files, comm):      # files[number] are the paths of a part's results
        write(files[number])
    comm.barrier()

Parts whose files are there are kept, so an interrupted call resumes. The others are divided evenly,
on the same or on another number of workers.
"""

import os

import numpy as np

from dc_tf.distributed.blocks import row_block
from dc_tf.distributed.collectives import Communicator

PARTS = 64  # that few rows are divided into, so that many workers have some of them each


def part_rows(rows: int, most: int, multiple: int = 1, least: int = 1) -> int:
    """Rows of a part: a 64th of all, but within bounds, rounded up to a multiple."""
    wanted = max(1, min(most, max(least, -(-rows // PARTS))))
    return -(-wanted // multiple) * multiple


def all_missing(files, comm: Communicator) -> np.ndarray:
    """(n,) int64 ascending numbers of the parts that lack a file, as the chief sees it.

    Args:
        files: for each part a list of paths, the same on all workers.
        comm: of all workers; every one makes the call.
    """
    missing = [not all(map(os.path.exists, paths)) for paths in files]
    if comm.size == 1 or not missing:
        return np.flatnonzero(missing)
    return np.flatnonzero(comm.broadcast(np.array(missing, np.int64)).numpy())


def own_missing(files, comm: Communicator) -> np.ndarray:
    """Those of `all_missing` that this worker makes: neighbours, as many as any other worker's."""
    missing = all_missing(files, comm)
    own = row_block(len(missing), comm.rank, comm.size)
    return missing[own.start : own.stop]
