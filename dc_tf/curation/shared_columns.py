"""Columns of which every worker has a block of rows, joined in a folder that all of them see.

columns = joined_columns("WORK/labels", {"cluster": own_labels}, comm)
columns["cluster"]                    # of all rows, mapped from disk
"""

import os

import numpy as np

from dc_tf import atomic
from dc_tf.clustering.store.joined_file import write_joined
from dc_tf.distributed.collective_errors import raise_on_all


def joined_columns(folder, columns, comm) -> dict[str, np.ndarray]:
    """The columns of all workers, one behind the other by rank, on every worker.

    Args:
        folder: made if missing; has NAME.npy afterwards.
        columns: {name: array of this worker's rows}, the same names and dtypes everywhere.
        comm: Communicator of the workers, which all make the call.

    Returns:
        {name: memory-mapped array}; on a worker alone the arrays themselves: nothing is written.
    """
    if comm.size == 1:
        return dict(columns)
    with raise_on_all(comm):
        atomic.make_folder(folder)
        for name, values in columns.items():
            path = _part(folder, name, comm.rank, comm.size)
            atomic.write_file(path, lambda file, values=values: np.save(file, values))
    with raise_on_all(comm):
        if comm.rank == 0:
            for name in columns:
                _join(folder, name, comm.size)
    return {name: np.load(os.path.join(folder, f"{name}.npy"), mmap_mode="r") for name in columns}


def _join(folder, name, size):
    parts = [_part(folder, name, rank, size) for rank in range(size)]
    path = os.path.join(folder, f"{name}.npy")
    atomic.write_file(path, lambda file: write_joined(file, parts))
    for part in parts:
        os.remove(part)


def _part(folder, name, rank, size):
    return os.path.join(folder, f"{name}-{rank:05d}-of-{size:05d}.npy")
