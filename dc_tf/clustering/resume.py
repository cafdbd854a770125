"""Snapshots of a clustering on each worker's own disk, from which an interrupted one resumes.

Every worker writes its own file, complete or not at all. The two newest are kept, since a crash can
come when some workers have written the newest and others have not. On restart all workers take the
newest snapshot that every one of them has, or none.

    snapshots = Snapshots(folder + "/kmeans", comm, every_s=60)
    snapshot = snapshots.newest()             # the same generation on all workers, or None
    snapshots.save_if_due(7, lambda: Snapshot({"done": 2}, {"labels": labels}))
"""

import dataclasses
import json
import os
import struct
import time
import zipfile

import numpy as np
from absl import logging

from dc_tf.atomic import write_file
from dc_tf.clustering.kmeans import KMeansState
from dc_tf.distributed import stop_request
from dc_tf.distributed.collectives import all_gather
from dc_tf.errors import Preempted

_ABOUT = "about"
_KEPT = 2
# The largest share of the time spent on saving, where the disk is slow and the state large.
_MOST_TIME = 1 / 20
# Raised by reading a truncated or changed file.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """State of one worker, from which it resumes.

    Attributes:
        about: JSON-ready dict.
        arrays: dict of name to array.
    """

    about: dict
    arrays: dict[str, np.ndarray]


class Snapshots:
    """The newest snapshots of one worker; all workers of `comm` make the same calls.

    Args:
        folder: of this worker alone, on its own disk; made at the first save.
        comm: `Communicator` of the workers that resume together.
        every_s: seconds from one save to the next, or more where saving would take more than a
            twentieth of the time; 0 saves at every call.
    """

    def __init__(self, folder, comm, every_s=60.0):
        self._folder = folder
        self._comm = comm
        self._every_s = every_s
        self._due = time.monotonic() + every_s

    def newest(self) -> Snapshot | None:
        """The newest snapshot that all workers have; None on all of them if there is none.

        Later ones of this worker are removed: all workers repeat the work since.
        """
        own = [generation for generation in self._generations() if self._read(generation)]
        own = own[-_KEPT:]  # A kill can come before the oldest is removed.
        common = set.intersection(*map(set, _all_gather(own, self._comm)))
        newest = max(common, default=None)
        for generation in self._generations():
            if newest is None or generation > newest:
                os.remove(self._path(generation))
        return None if newest is None else self._read(newest)

    def save_if_due(self, generation, snapshot) -> None:
        """Saves if a save is due by the clock of the chief, or a worker was asked to stop.

        Clocks differ, and a snapshot is of use only if all workers have it.

        Args:
            generation: int, larger than before.
            snapshot: function that returns the `Snapshot`; called only for a save.

        Raises:
            Preempted: on all workers, after the save, when one was asked to stop.
        """
        stops = stop_request.requested()
        due = time.monotonic() >= self._due and self._comm.rank == 0
        due, stops = self._comm.all_sum(np.array([due, stops], np.int64)).numpy()
        if due or stops:
            self.save(generation, snapshot())
        if stops:
            raise Preempted("was asked to stop; the clustering in progress is saved")

    def save(self, generation, snapshot: Snapshot) -> None:
        """Writes a snapshot and removes all but the newest two.

        On a full or failing disk it logs a warning, and the clustering continues.
        """
        started = time.monotonic()
        try:
            os.makedirs(self._folder, exist_ok=True)
            write_file(self._path(generation), lambda file: _write_snapshot(file, snapshot))
            for old in self._generations()[:-_KEPT]:
                os.remove(self._path(old))
        except OSError as error:
            logging.warning("snapshot not saved; continuing: %s", error)
        now = time.monotonic()
        self._due = now + max(self._every_s, (now - started) / _MOST_TIME if self._every_s else 0)

    def _read(self, generation) -> Snapshot | None:
        path = self._path(generation)
        try:
            with np.load(path, allow_pickle=False) as file:  # zip files hold checksums
                arrays = dict(file)
            return Snapshot(json.loads(arrays.pop(_ABOUT).tobytes()), arrays)
        except _UNREADABLE as error:
            logging.warning("%s is corrupt; not used: %r", path, error)
            return None

    def _generations(self) -> list[int]:
        """Of the files in the folder, ascending."""
        if not os.path.isdir(self._folder):
            return []
        names = [name for name in os.listdir(self._folder) if name.endswith(".npz")]
        return sorted(int(name.removesuffix(".npz")) for name in names)

    def _path(self, generation):
        return os.path.join(self._folder, f"{generation:010d}.npz")


def pack_state(state: KMeansState) -> Snapshot:
    """The `Snapshot` of a k-means in progress."""
    values = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    return Snapshot({name: values[name] for name in values.keys() - arrays.keys()}, arrays)


def unpack_state(snapshot: Snapshot) -> KMeansState:
    """The state of a `Snapshot` that `pack_state` made."""
    about = snapshot.about | {"objective": tuple(snapshot.about["objective"])}
    return KMeansState(**about, **snapshot.arrays)


def _all_gather(generations, comm) -> list[list[int]]:
    """Every worker's generations, by rank; each has at most `_KEPT`."""
    mine = np.zeros(_KEPT, np.int64)
    mine[: len(generations)] = np.add(generations, 1)
    return [[int(g) - 1 for g in row if g] for row in all_gather(mine, comm)]


def _write_snapshot(file, snapshot):
    about = np.frombuffer(json.dumps(snapshot.about).encode(), np.uint8)
    np.savez(file, **{_ABOUT: about}, **snapshot.arrays)
