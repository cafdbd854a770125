"""Which cluster and sub-cluster each row of the data set is in, for all workers to read.

A folder with one block a worker and `assignments.json`, which names the blocks and is written
last: with it the assignments are complete, without it they are absent.

    write(folder, comm, first_row, cluster, sub, clusters=4, sub_clusters=1000)
    assignments = Assignments.open(folder)
    assignments.cluster, assignments.sub          # (N,) each
"""

import dataclasses
import io
import json
import os
import zipfile

import numpy as np

from dc_tf import atomic
from dc_tf.clustering.statistics import count_statistics
from dc_tf.errors import DataError

_LIST = "assignments.json"
_UNREADABLE = (OSError, ValueError, KeyError, zipfile.BadZipFile)


@dataclasses.dataclass(frozen=True)
class Assignments:
    """Labels of all N rows, by row id.

    Attributes:
        cluster: (N,) int32 in [0, clusters).
        sub: (N,) int32 in [0, sub_clusters).
        clusters: m.
        sub_clusters: in each cluster; at least 1.
        further: (N, clusterings - 1) int32, labels like `sub`, of the clusterings after the first;
            None with one.
    """

    cluster: np.ndarray
    sub: np.ndarray
    clusters: int
    sub_clusters: int
    further: np.ndarray | None = None

    @classmethod
    def open(cls, folder) -> "Assignments":
        """Reads all blocks.

        Raises:
            DataError: if there are no complete assignments in the folder.
        """
        try:
            about = json.loads(_read(os.path.join(folder, _LIST)))
            blocks = [_read_block(os.path.join(folder, name)) for name in about["blocks"]]
        except _UNREADABLE as error:
            raise DataError(
                f"{folder} has no complete assignments ({error}); resume the command that writes "
                "them, or name a clustering that has finished."
            ) from error
        _check_contiguous(blocks, folder)
        return cls(
            cluster=np.concatenate([block["cluster"] for block in blocks]),
            sub=np.concatenate([block["sub"] for block in blocks]),
            clusters=about["clusters"],
            sub_clusters=about["sub_clusters"],
            further=_further(blocks),
        )

    @property
    def subs(self) -> np.ndarray:
        """`sub`, or with several clusterings (N, clusterings) int32 labels of all."""
        return self.sub if self.further is None else np.column_stack([self.sub, self.further])

    def flat(self) -> np.ndarray:
        """(N,) int64 in [0, clusters * sub_clusters): both levels in one label."""
        return self.cluster.astype(np.int64) * self.sub_clusters + self.sub

    def statistics(self) -> dict:
        """Statistics of both levels, `{"clusters": {...}, "sub_clusters": {...}}`.

        As of `count_statistics`; the second level counts all sub-clusters of all clusters.
        """
        return {level: count_statistics(counts) for level, counts in self.counts().items()}

    def counts(self) -> dict:
        """Rows of each cluster and of each sub-cluster of all clusters, (k,) int64 by level."""
        sub_clusters = self.clusters * self.sub_clusters
        return {
            "clusters": np.bincount(self.cluster, minlength=self.clusters),
            "sub_clusters": np.bincount(self.flat(), minlength=sub_clusters),
        }


def is_complete(folder) -> bool:
    """Whether `Assignments.open` would find assignments in the folder."""
    return os.path.exists(os.path.join(folder, _LIST))


def write(folder, comm, first_row, cluster, sub, clusters, sub_clusters, further=None) -> None:
    """Writes the assignments of all workers; afterwards every worker can open them."""
    atomic.make_folder(folder)
    if comm.rank == 0 and is_complete(folder):
        os.remove(os.path.join(folder, _LIST))
    comm.barrier()
    write_block(folder, comm.rank, comm.size, first_row, cluster, sub, further)
    comm.barrier()
    if comm.rank == 0:
        commit(folder, comm.size, clusters, sub_clusters)
    comm.barrier()


def write_block(folder, rank, world, first_row, cluster, sub, further=None) -> None:
    """Writes the labels of one worker's rows, complete or not at all.

    Args:
        folder: of the assignments, shared by all workers.
        rank, world: this worker and how many there are.
        first_row: row id of its first row.
        cluster, sub: (n,) int32.
        further: (n, clusterings - 1) int32 sub-clusters of further clusterings, or None.
    """
    arrays = {
        "first_row": np.int64(first_row),
        "cluster": np.asarray(cluster, np.int32),
        "sub": np.asarray(sub, np.int32),
    }
    if further is not None and further.shape[1]:
        arrays["further"] = np.asarray(further, np.int32)
    atomic.make_folder(folder)
    path = os.path.join(folder, _block_name(rank, world))
    atomic.write_file(path, lambda file: np.savez(file, **arrays))


def commit(folder, world, clusters, sub_clusters) -> None:
    """Declares the blocks of `world` workers complete; called by one, after all have written.

    Raises:
        DataError: if a block is missing, or blocks overlap or leave a gap.
    """
    names = [_block_name(rank, world) for rank in range(world)]
    try:
        blocks = [_read_block(os.path.join(folder, name)) for name in names]
    except _UNREADABLE as error:
        raise DataError(
            f"{folder} lacks a block of assignments ({error}); use a folder that all workers see, "
            "and start them again."
        ) from error
    _check_contiguous(blocks, folder)
    about = {"blocks": names, "clusters": clusters, "sub_clusters": max(1, sub_clusters)}
    atomic.write_text(os.path.join(folder, _LIST), json.dumps(about))


def _block_name(rank, world):
    return f"block-{rank:05d}-of-{world:05d}.npz"


def _check_contiguous(blocks, folder):
    row = 0
    for index, block in enumerate(blocks):
        if block["first_row"] != row or len(block["cluster"]) != len(block["sub"]):
            raise DataError(
                f"{folder}: block {index} starts at row {block['first_row']}, not at {row}; "
                "it belongs to another run. Cluster again."
            )
        row += len(block["cluster"])


def _further(blocks):
    if "further" not in blocks[0]:
        return None
    return np.concatenate([block["further"] for block in blocks])


def _read_block(path):
    with np.load(io.BytesIO(_read(path)), allow_pickle=False) as block:
        return dict(block)


def _read(path):
    with open(path, "rb") as file:
        return file.read()
