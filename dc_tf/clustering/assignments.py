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
import tensorflow as tf

from dc_tf import atomic
from dc_tf.errors import DataError

_LIST = "assignments.json"
_UNREADABLE = (tf.errors.OpError, OSError, ValueError, KeyError, zipfile.BadZipFile)


@dataclasses.dataclass(frozen=True)
class Assignments:
    """Labels of all N rows, by row id.

    Attributes:
        cluster: (N,) int32 in [0, clusters).
        sub: (N,) int32 in [0, sub_clusters).
        clusters: m.
        sub_clusters: in each cluster; at least 1.
    """

    cluster: np.ndarray
    sub: np.ndarray
    clusters: int
    sub_clusters: int

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
            raise DataError(f"{folder} has no complete assignments: {error}") from error
        _check_contiguous(blocks, folder)
        return cls(
            cluster=np.concatenate([block["cluster"] for block in blocks]),
            sub=np.concatenate([block["sub"] for block in blocks]),
            clusters=about["clusters"],
            sub_clusters=about["sub_clusters"],
        )

    def flat(self) -> np.ndarray:
        """(N,) int64 in [0, clusters * sub_clusters): both levels in one label."""
        return self.cluster.astype(np.int64) * self.sub_clusters + self.sub

    def statistics(self) -> dict:
        """Figures of both levels, `{"clusters": {...}, "sub_clusters": {...}}`.

        See `count_statistics`; the second level is that of all sub-clusters of all clusters.
        """
        return {
            "clusters": count_statistics(np.bincount(self.cluster, minlength=self.clusters)),
            "sub_clusters": count_statistics(
                np.bincount(self.flat(), minlength=self.clusters * self.sub_clusters)
            ),
        }


def is_complete(folder) -> bool:
    """Whether `Assignments.open` would find assignments in the folder."""
    return tf.io.gfile.exists(os.path.join(folder, _LIST))


def count_statistics(counts) -> dict:
    """How evenly rows are spread.

    Args:
        counts: (k,) rows of each cluster.

    Returns:
        `rows`; `largest_share` of them in one cluster; `empty` clusters; `entropy` of a row's
        cluster in nats, log(k) when all are equal; `imbalance_factor`, k * sum(share ** 2): 1 when
        all are equal, k when one has all; `sizes`, see `size_histogram`.
    """
    rows = int(np.sum(counts))
    shares = np.asarray(counts, np.float64) / max(1, rows)
    filled = shares[shares > 0]
    return {
        "rows": rows,
        "largest_share": float(shares.max()),
        "empty": int(np.count_nonzero(shares == 0)),
        "entropy": max(0.0, float(-np.sum(filled * np.log(filled)))),
        "imbalance_factor": float(len(shares) * np.sum(shares**2)),
        "sizes": size_histogram(counts),
    }


def size_histogram(counts) -> list[int]:
    """How many clusters are how large, by powers of two.

    Args:
        counts: (k,) rows of each cluster.

    Returns:
        number of clusters that have no row, 1 row, 2 to 3, 4 to 7, 8 to 15, ... up to the largest.
    """
    # frexp gives the number of binary digits: 0 for 0, 1 for 1, 2 for 2 and 3, ...
    return np.bincount(np.frexp(np.asarray(counts, np.float64))[1]).tolist()


def collapse_warnings(counts) -> list[str]:
    """What a person should know about clusters that say little, a sentence each.

    Args:
        counts: (clusters, sub_clusters) rows of each sub-cluster; sub_clusters may be 1.
    """
    counts = np.asarray(counts)
    totals = counts.sum(axis=1)
    rows, filled = int(totals.sum()), np.flatnonzero(totals)
    if not rows:
        return []
    warnings = []
    if _holds_most(totals):
        warnings.append(
            f"cluster {totals.argmax()} holds {_percent(totals.max(), rows)} of all rows: the "
            "features hardly tell the images apart. If it grows from round to round, training "
            "collapses; lower the learning rate or start from a pre-trained trunk."
        )
    crowded = [i for i in filled if _holds_most(counts[i])]
    if crowded:
        share = max(counts[i].max() / totals[i] for i in crowded)
        warnings.append(
            f"in {len(crowded)} of {len(filled)} clusters one sub-cluster holds most rows, up to "
            f"{_percent(share, 1)}: their sub-clusters say little. Look for images that are nearly "
            "alike, or lower sub_clusters."
        )
    empty = int(np.count_nonzero(counts[filled] == 0))
    if 2 * empty > counts[filled].size:
        warnings.append(
            f"{empty} of {counts[filled].size} sub-clusters are empty: there are fewer different "
            f"rows than sub-clusters ({rows} rows in all). Lower sub_clusters, or use more images."
        )
    return warnings


def size_warnings(counts) -> list[str]:
    """What a person should know about any clusters that say little, a sentence each.

    Args:
        counts: (k,) rows of each cluster.
    """
    counts = np.asarray(counts)
    rows, empty = int(counts.sum()), int(np.count_nonzero(counts == 0))
    warnings = []
    if rows and _holds_most(counts):
        warnings.append(
            f"cluster {counts.argmax()} holds {_percent(counts.max(), rows)} of all rows, so the "
            "clusters say little. Look for rows that are equal or nearly so, or bring rows of very "
            "different lengths to the same one."
        )
    if rows and 2 * empty > len(counts):
        warnings.append(
            f"{empty} of {len(counts)} clusters are empty: there are fewer different rows than "
            "clusters. Ask for fewer."
        )
    return warnings


def _holds_most(counts) -> bool:
    """Whether the largest is more than half of the way from an even share to everything."""
    return len(counts) > 1 and 2 * counts.max() > (1 + 1 / len(counts)) * counts.sum()


def _percent(part, whole):
    return f"{100 * part / whole:.0f}%"


def nmi(a, b) -> float:
    """Normalised mutual information of two labellings (N,), in [0, 1], 1 for the same partition.

    Normalised by the mean of the two entropies.
    """
    from sklearn import metrics  # takes seconds to import; most commands never come here

    return float(metrics.normalized_mutual_info_score(a, b))


def write(folder, comm, first_row, cluster, sub, clusters, sub_clusters):
    """Writes the assignments of all workers; when it returns, any of them can open them."""
    tf.io.gfile.makedirs(folder)
    if comm.rank == 0 and tf.io.gfile.exists(os.path.join(folder, _LIST)):
        tf.io.gfile.remove(os.path.join(folder, _LIST))
    comm.barrier()
    write_block(folder, comm.rank, comm.size, first_row, cluster, sub)
    comm.barrier()
    if comm.rank == 0:
        commit(folder, comm.size, clusters, sub_clusters)
    comm.barrier()


def write_block(folder, rank, world, first_row, cluster, sub):
    """Writes the labels of one worker's rows, complete or not at all.

    Args:
        folder: of the assignments, shared by all workers.
        rank, world: this worker and how many there are.
        first_row: row id of its first row.
        cluster, sub: (n,) int32.
    """
    arrays = {
        "first_row": np.int64(first_row),
        "cluster": np.asarray(cluster, np.int32),
        "sub": np.asarray(sub, np.int32),
    }
    atomic.make_folder(folder)
    path = os.path.join(folder, _block_name(rank, world))
    atomic.write_file(path, lambda file: np.savez(file, **arrays))


def commit(folder, world, clusters, sub_clusters):
    """Declares the blocks of `world` workers complete; for one worker, after all have written.

    Raises:
        DataError: if a block is missing or they do not join.
    """
    names = [_block_name(rank, world) for rank in range(world)]
    try:
        blocks = [_read_block(os.path.join(folder, name)) for name in names]
    except _UNREADABLE as error:
        raise DataError(f"{folder} lacks a block of assignments: {error}") from error
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
                "it is of another run."
            )
        row += len(block["cluster"])


def _read_block(path):
    with np.load(io.BytesIO(_read(path)), allow_pickle=False) as block:
        return dict(block)


def _read(path):
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()
