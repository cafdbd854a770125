"""The folder of a tree of clusters: finished, or what a restart resumes from.

    store = TreeStore("/data/tree")
    store.claim(settings)                           # refuses a tree of other features or settings
    tree = store.read() if store.is_finished() else ...

Folder:
    settings.json                    what the tree depends on
    labels.npy, distances.npy        (N,) int32 clusters and float32 distances, by row id
    parents-1.npy, ...               (k,) int32, of each further level
    tree.json                        rows, clusters of each level; written last
    unfinished/                      centroids of the clusterings that are done, and the one begun
"""

import os
import re

import numpy as np

from dc_tf import atomic
from dc_tf.clustering.shared_state import SharedState
from dc_tf.clustering.store.joined_file import write_joined
from dc_tf.curation.tree.tree import Tree
from dc_tf.distributed.blocks import all_sum_array
from dc_tf.distributed.collectives import broadcast_number
from dc_tf.errors import DataError
from dc_tf.limits import AUTO

_ROUND = re.compile(r"level-(\d+)-round-(\d+)\.npy")


class TreeStore:
    """One folder, which all workers see.

    Attributes:
        path: str.
    """

    def __init__(self, path, save_every_s=60.0):
        """Prepares; writes nothing.

        Args:
            path: folder.
            save_every_s: seconds between saves of the k-means in progress; 0: every iteration.
        """
        self.path = path
        self._save_every_s = save_every_s
        self._unfinished = os.path.join(path, "unfinished")

    def claim(self, settings) -> None:
        """Makes the folder that of a tree with these settings, a JSON-ready dict.

        Raises:
            ConfigError: it holds something else.
        """
        atomic.refuse_foreign(self._file("settings.json"), settings, "--tree", "clusters")

    def precision(self) -> str:
        """Of the products of the tree in the folder; "auto" if there is none.

        Raises:
            ConfigError: its settings are corrupt.
        """
        path = self._file("settings.json")
        return atomic.read_json(path).get("precision", AUTO) if os.path.exists(path) else AUTO

    def is_finished(self) -> bool:
        return os.path.exists(self._file("tree.json"))

    def read(self) -> Tree:
        """The finished tree, of all rows.

        Raises:
            DataError: it is corrupt.
        """
        try:
            levels = len(atomic.read_json(self._file("tree.json"))["clusters"])
            labels = np.load(self._file("labels.npy"), mmap_mode="r", allow_pickle=False)
            distances = np.load(self._file("distances.npy"), mmap_mode="r", allow_pickle=False)
            names = [f"parents-{level}.npy" for level in range(1, levels)]
            parents = tuple(np.load(self._file(name), allow_pickle=False) for name in names)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.path} has no tree that can be read: {error}; remove the folder, and it is "
                "made again."
            ) from error
        return Tree(labels, parents, distances)

    def begin(self, level, number, shape, comm) -> tuple:
        """What a k-means resumes from and how it saves.

        Args:
            level, number: of the level and the round.
            shape: (k, dim) of its centroids.
            comm: Communicator of the workers.

        Returns:
            KMeansState or None, and a function of a KMeansState to call after each iteration.
        """
        shared = SharedState(self._state(level, number), comm, self._save_every_s)
        return shared.newest(*shape), shared.save_if_due

    def finish(self, level, number, centroids, comm) -> None:
        """Keeps the centroids of a round; a restart begins after it."""
        comm.barrier()
        if comm.rank == 0:
            path = os.path.join(self._unfinished, f"level-{level}-round-{number}.npy")
            os.makedirs(self._unfinished, exist_ok=True)
            atomic.write_file(path, lambda file: np.save(file, centroids))
            atomic.remove_tree(self._state(level, number))
        comm.barrier()

    def newest(self, level, shape, comm) -> tuple:
        """(number, (k, dim) centroids) of the last round of a level that is done, or (0, None).

        The same on every worker.
        """
        number = self._newest(level) if comm.rank == 0 else 0
        number = broadcast_number(number, comm)
        if number < 0:
            return 0, None
        centroids = np.zeros(shape, np.float32)
        if comm.rank == 0:
            path = os.path.join(self._unfinished, f"level-{level}-round-{number}.npy")
            centroids += np.load(path, allow_pickle=False)
        return number, all_sum_array(centroids, comm)

    def write_part(self, tree, comm) -> None:
        """Writes what one worker has of the tree."""
        os.makedirs(self._unfinished, exist_ok=True)
        for name, values in (("labels", tree.labels), ("distances", tree.distances)):
            path = self._part(name, comm.rank, comm.size)
            atomic.write_file(path, lambda file, values=values: np.save(file, values))

    def join_parts(self, tree, size) -> None:
        """Joins the parts of `size` workers and commits, for the chief."""
        rows = 0
        for name in ("labels", "distances"):
            paths = [self._part(name, rank, size) for rank in range(size)]
            with (
                atomic.replacing(self._file(f"{name}.npy")) as staging,
                open(staging, "wb") as file,
            ):
                rows = write_joined(file, paths)
        for level, parents in enumerate(tree.parents, start=1):
            path = self._file(f"parents-{level}.npy")
            atomic.write_file(path, lambda file, parents=parents: np.save(file, parents))
        clusters = [len(parents) for parents in tree.parents]
        top = tree.parents[-1] if tree.parents else np.load(self._file("labels.npy"), mmap_mode="r")
        clusters.append(int(top.max()) + 1)
        atomic.write_json(self._file("tree.json"), {"rows": rows, "clusters": clusters})
        atomic.remove_tree(self._unfinished)

    def _newest(self, level):
        """Number of the last round that is done; -1 without."""
        names = os.listdir(self._unfinished) if os.path.isdir(self._unfinished) else []
        found = filter(None, map(_ROUND.fullmatch, names))
        return max((int(match[2]) for match in found if int(match[1]) == level), default=-1)

    def _state(self, level, number):
        return os.path.join(self._unfinished, f"level-{level}-round-{number}-state")

    def _part(self, name, rank, size):
        return os.path.join(self._unfinished, f"{name}-{rank:05d}-of-{size:05d}.npy")

    def _file(self, name):
        return os.path.join(self.path, name)
