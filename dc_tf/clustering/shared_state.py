"""Snapshots of a k-means in progress, in a folder that all workers share.

The chief saves the state that all workers have in common, every worker the labels of its rows. The
same number of workers resumes exactly. Another number resumes from the centroids, without labels,
and agrees up to rounding.

    shared = SharedState(folder, comm)
    kmeans(rows, k, comm, state=shared.newest(k, rows.dim), on_iteration=shared.save_if_due)
"""

import os

import numpy as np

from dc_tf.clustering.kmeans import KMeansState
from dc_tf.clustering.resume import Snapshot, Snapshots, pack_state, unpack_state
from dc_tf.distributed import blocks
from dc_tf.distributed.collectives import Solo, broadcast_json, broadcast_number


class SharedState:
    """The newest states of one clustering; all workers make the same calls.

    Args:
        folder: for these states alone, shared by all workers.
        comm: `Communicator` of all workers.
        every_s: as of `Snapshots`.
    """

    def __init__(self, folder, comm, every_s=60.0):
        self._folder = folder
        self._comm = comm
        self._snapshots = Snapshots(self._subfolder(comm.rank, comm.size), comm, every_s)

    def save_if_due(self, state: KMeansState) -> None:
        """Saves if a save is due; see `Snapshots.save_if_due`."""
        self._snapshots.save_if_due(state.iteration, lambda: self._own(state))

    def newest(self, k, dim) -> KMeansState | None:
        """The newest state, the same on every worker except its labels; None if there is none.

        Args:
            k, dim: shape of its centroids.
        """
        own = self._snapshots.newest()
        snapshot = own
        if self._comm.rank == 0:
            snapshot = max(own, self._of_other_worlds(), key=_iteration)
        about = broadcast_json(snapshot.about if snapshot else None, self._comm)
        if about is None:
            return None
        arrays = {
            "centroids": self._broadcast(snapshot, "centroids", (k, dim), np.float32),
            "used": self._broadcast(snapshot, "used", (k,), np.int32).astype(bool),
        }
        of_this_world = broadcast_number(snapshot is own, self._comm)
        labels = {"labels": own.arrays["labels"] if of_this_world else None}
        return unpack_state(Snapshot(about | labels, arrays))

    def _own(self, state):
        if self._comm.rank == 0:
            return pack_state(state)
        return Snapshot({}, {"labels": state.labels})

    def _of_other_worlds(self) -> Snapshot | None:
        """The newest state that another number of workers saved."""
        names = os.listdir(self._folder) if os.path.isdir(self._folder) else []
        others = [name for name in names if name.startswith(_name(0, ""))]
        others = [os.path.join(self._folder, name) for name in others]
        own = self._subfolder(0, self._comm.size)
        found = [Snapshots(path, Solo()).newest() for path in others if path != own]
        return max(found, key=_iteration, default=None)

    def _broadcast(self, snapshot, name, shape, dtype):
        """The chief's array; the other workers add zeros."""
        own = snapshot.arrays[name] if self._comm.rank == 0 else np.zeros(shape)
        return blocks.all_sum_array(np.asarray(own, dtype), self._comm)

    def _subfolder(self, rank, size):
        return os.path.join(self._folder, _name(rank, f"{size:05d}"))


def _name(rank, size):
    return f"worker-{rank:05d}-of-{size}"


def _iteration(snapshot):
    return snapshot.about["iteration"] if snapshot else -1
