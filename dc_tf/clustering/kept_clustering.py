"""Keeps the centroids of a clustering on disk, so that other rows can be assigned to it later.

    kept = KeptClustering(folder, cluster.world, {"stage": 1, "round": 0, "step": 800})
    hierarchical_kmeans(..., on_centroids=kept.write)      # each problem's centroids, once solved
    kept.write_nearness(points, first_row, result)
    kept.commit(description, whitening, counts, write_network)
    prune(clusterings, keep=2)

Folder `centroids` in the folder of a clustering:
    super.npy          (clusters, dim) float32; absent with one cluster
    sub-0003.npy       (sub_clusters, dim) float32 of cluster 3; absent without sub-clusters; of
                       further clusterings, cluster + clustering * clusters in place of 3
    counts.npy         (clusterings * clusters, sub_clusters) int64, rows of each sub-cluster
    whitening.npz      `mean` (raw_dim,) and `basis` (raw_dim, dim), float32; absent where features
                       were clustered as they are
    nearness-00000-of-00002.npz   `first_row`, and `nearness` (n, 2) float32 of a worker's rows:
                       distance to the own centroid, and its ratio to that of the nearest other one
    network.*          checkpoint of TensorFlow with the trunk, and the projection if there is one,
                       whose features were clustered
    centroids.json     what these are, and the size of each file; written last

Centroids are equal on all workers, so each problem's are written by one of them, and none are sent.
They are on disk before a snapshot counts their problem as solved, so a resumed clustering has all.
"""

import os
import re

import numpy as np
import tensorflow as tf
from absl import logging

from dc_tf import atomic
from dc_tf.clustering.nearness import of_points
from dc_tf.distributed import heartbeat

FOLDER = "centroids"
DESCRIPTION = "centroids.json"
SUPER, COUNTS, WHITENING, NETWORK = "super.npy", "counts.npy", "whitening.npz", "network"
_NEARNESS = "nearness-"
_ROUND = re.compile(r"stage-(\d+)-round-(\d+)$")


class KeptClustering:
    """Writes what is kept of one clustering; all workers make the same calls.

    A full or broken disk is logged and loses the centroids, not the clustering.

    Args:
        folder: folder of the clustering, shared by all workers.
        comm: Communicator of all workers.
        place: JSON-ready dict with `stage`, `round` and `step` of the run.
    """

    def __init__(self, folder: str, comm, place: dict):
        self._path = os.path.join(folder, FOLDER)
        self._staging = atomic.staged_folder(self._path)
        self._comm = comm
        self._place = place

    def write(self, level: int, index: int, centroids) -> None:
        """Writes the centroids of a solved problem, on one of the workers.

        Args:
            level: 1 or 2.
            index: of the cluster that a problem of level 2 divides.
            centroids: (k, dim) float32.
        """
        if index % self._comm.size != self._comm.rank:
            return
        path = os.path.join(self._staging, SUPER if level == 1 else sub_name(index))
        try:
            with heartbeat.slow_operation("centroids"):
                atomic.make_folder(self._staging)
                _remove(path)  # of another clustering, if this one cannot be written
                atomic.write_file(path, lambda file: np.save(file, centroids))
        except OSError as error:
            logging.warning("%s not written; continuing without it: %s", path, error)

    def write_nearness(self, points, first_row: int, result) -> None:
        """Measures and writes how near this worker's rows are, for `ClusterModel.nearness`.

        Nothing is written where the disk has refused centroids.

        Args:
            points: `points.Points`, the rows that were clustered.
            first_row: row id of the first.
            result: their `hierarchy.Hierarchy`.
        """
        self._comm.barrier()  # centroids of all workers are on disk
        problems = self._problems(result)
        if problems is None:
            return
        path = self._staged(nearness_name(self._comm.rank, self._comm.size))
        with heartbeat.slow_operation("distances"):
            arrays = {"first_row": np.int64(first_row), "nearness": of_points(points, problems)}
            try:
                atomic.write_file(path, lambda file: np.savez(file, **arrays))
            except OSError as error:
                logging.warning("%s not written; continuing without it: %s", path, error)

    def _problems(self, result):
        """Problems of the lowest level for `nearness.of_points`; None if centroids are missing."""
        has_subs = bool(result.report["level2"])
        names = [sub_name(i) for i in range(len(result.counts))] if has_subs else [SUPER]
        try:
            centroids = [np.load(self._staged(name), mmap_mode="r") for name in names]
        except (OSError, ValueError):
            return None
        if not has_subs:
            every = np.arange(len(result.cluster))
            return [(every, result.cluster, centroids[0], result.counts.sum(1) > 0)]
        members = (np.flatnonzero(result.cluster == index) for index in range(len(names)))
        return (
            (own, result.sub[own], each, counts > 0)
            for own, each, counts in zip(members, centroids, result.counts, strict=True)
        )

    def commit(
        self, description: dict, whitening, counts, write_network, clusterings: int = 1
    ) -> None:
        """Completes the folder, once all workers have written; returns when it is complete.

        Args:
            description: JSON-ready dict about features and clusters; at least `rows`,
                `sub_clusters` and `store_dtype`; without whitening also `dim` and `raw_dim`. Place,
                shapes and sizes of files are added.
            whitening: Whitening of the features; None if they were clustered as they are.
            counts: (clusterings * clusters, max(1, sub_clusters)) int64 rows of each sub-cluster.
            write_network: called with the path prefix of a checkpoint to write.
            clusterings: of the second level.
        """
        description = description | {"clusterings": clusterings}
        self._comm.barrier()
        if self._comm.rank == 0:
            try:
                with heartbeat.slow_operation("centroids"):
                    self._commit(description, whitening, counts, write_network)
            # The network of `write_network` is TensorFlow's to write.
            except (
                OSError,
                tf.errors.ResourceExhaustedError,
                tf.errors.PermissionDeniedError,
            ) as error:
                logging.warning("%s not written; continuing without it: %s", self._path, error)
                atomic.remove_tree(self._staging)
        self._comm.barrier()

    def _commit(self, description, whitening, counts, write_network):
        clusters = len(counts) // description["clusterings"]
        arrays = _problem_files(clusters, len(counts) if description["sub_clusters"] else 0)
        missing = [name for name in arrays if not os.path.exists(self._staged(name))]
        if missing:
            self._keep_earlier(counts, missing)
            return
        atomic.write_file(self._staged(COUNTS), lambda file: np.save(file, counts))
        if whitening is not None:
            whitening.save(self._staged(WHITENING))
        write_network(self._staged(NETWORK))
        self._remove_leftovers()
        about = (
            self._place
            | _dims(whitening)
            | description
            | {
                "workers": self._comm.size,
                "arrays": {name: _array_info(self._staged(name)) for name in [*arrays, COUNTS]},
                "bytes": file_sizes(self._staging),
            }
        )
        atomic.write_json(self._staged(DESCRIPTION), about)
        atomic.commit_folder(self._path, last=DESCRIPTION)

    def _remove_leftovers(self):
        """Removes what an earlier attempt has left: its description, distances of other workers."""
        _remove(self._staged(DESCRIPTION))
        own = {nearness_name(rank, self._comm.size) for rank in range(self._comm.size)}
        for name in os.listdir(self._staging):
            if name.startswith(_NEARNESS) and name not in own:
                _remove(self._staged(name))

    def _keep_earlier(self, counts, missing):
        """Keeps what an earlier process has committed, if it is of the same clustering."""
        atomic.remove_tree(self._staging)
        if is_complete(self._path):
            if np.array_equal(np.load(os.path.join(self._path, COUNTS)), counts):
                return
            atomic.discard_folder(self._path, last=DESCRIPTION)
        logging.warning("%s not written, since %s is missing", self._path, missing[0])

    def _staged(self, name):
        return os.path.join(self._staging, name)


def prune(clusterings: str, keep: int) -> None:
    """Removes the centroids of all but the newest `keep` clusterings; called by one worker.

    Args:
        clusterings: folder of all clusterings of a run.
        keep: 0 removes all.
    """
    kept = list(kept_rounds(clusterings).values())
    for path in kept[: max(0, len(kept) - keep)]:
        atomic.discard_folder(path, last=DESCRIPTION)
    for name in os.listdir(clusterings) if os.path.isdir(clusterings) else []:
        if _ROUND.match(name):
            atomic.remove_staged_folders(os.path.join(clusterings, name))


def kept_rounds(clusterings: str) -> dict[tuple[int, int], str]:
    """{(stage, round): path of its centroids} of the clusterings that are kept, oldest first."""
    found = {}
    for name in sorted(os.listdir(clusterings)) if os.path.isdir(clusterings) else []:
        path = os.path.join(clusterings, name, FOLDER)
        if (match := _ROUND.match(name)) and is_complete(path):
            found[int(match[1]), int(match[2])] = path
    return found


def centroids_folder(clustering: str) -> str:
    """Path of what is kept in the folder of a clustering."""
    return os.path.join(clustering, FOLDER)


def is_complete(path: str) -> bool:
    """Whether the folder of centroids at `path` is complete."""
    return os.path.exists(os.path.join(path, DESCRIPTION))


def nearness_name(rank: int, workers: int) -> str:
    """File name of the distances of one worker's rows."""
    return f"{_NEARNESS}{rank:05d}-of-{workers:05d}.npz"


def read_nearness(path: str, workers: int) -> list[np.ndarray] | None:
    """The (n, 2) float32 distances of each worker's rows, in row order; None if one is absent.

    Raises:
        ValueError: blocks do not join.
    """
    blocks, row = [], 0
    for rank in range(workers):
        name = os.path.join(path, nearness_name(rank, workers))
        if not os.path.exists(name):
            return None
        with np.load(name, allow_pickle=False) as block:
            if block["first_row"] != row:
                raise ValueError(f"{name} starts at row {block['first_row']}, not at {row}")
            blocks.append(block["nearness"])
        row += len(blocks[-1])
    return blocks


def sub_name(index: int) -> str:
    """File name of the centroids inside cluster `index`."""
    return f"sub-{index:04d}.npy"


def file_sizes(folder: str) -> dict[str, int]:
    """{name: bytes} of the files in a folder."""
    return {entry.name: entry.stat().st_size for entry in os.scandir(folder)}


def _dims(whitening):
    """Components before and after whitening; without, they are part of the description."""
    if whitening is None:
        return {}
    raw_dim, dim = map(int, whitening.basis.shape)
    return {"dim": dim, "raw_dim": raw_dim}


def _problem_files(clusters, problems):
    """Names of the files with centroids, of so many problems of the second level."""
    names = [SUPER] if clusters > 1 else []
    return names + [sub_name(index) for index in range(problems)]


def _array_info(path):
    array = np.load(path, mmap_mode="r")
    return {"shape": list(array.shape), "dtype": array.dtype.name}


def _remove(path):
    if os.path.exists(path):
        os.remove(path)
