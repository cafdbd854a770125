"""The rows of each cluster, and the clusters that lie next to each other.

    clusters = ClusterRows.of(features, labels, k, "WORK/clusters")
    clusters.rows_of(3)                  # row ids, ascending
    clusters.centroids                   # (k, dim), length 1
    clusters.next_to(neighbours=4)       # [(own, [others above it]), ...]: each pair once

Row ids in the order of their clusters lie in a file, so memory depends on k only.
"""

import hashlib
import os

import numpy as np

from dc_tf import atomic
from dc_tf.clustering.store.points import as_points
from dc_tf.curation.features.neighbours import nearest_rows, unit, unit_blocks
from dc_tf.distributed import stop_request
from dc_tf.distributed.blocks import all_sum_array, row_block
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import ALONE
from dc_tf.distributed.parts import all_missing
from dc_tf.errors import DataError
from dc_tf.progress import Progress

_ORDER, _STARTS, _LAST = "order.npy", "starts.npy", "centroids.npy"
_BLOCK_ROWS = 1 << 20


class ClusterRows:
    """Rows by cluster.

    Attributes:
        k: number of clusters.
        starts: (k + 1,) int64, where each cluster begins in the order.
        centroids: (k, dim) float32 mean directions, length 1; zeros of an empty cluster.
    """

    def __init__(self, order, starts, centroids):
        self.k = len(centroids)
        self.starts = starts
        self.centroids = centroids
        self._order = order

    @classmethod
    def of(cls, features, labels, k, folder, without=(), comm=None) -> "ClusterRows":
        """Sorts the rows by cluster, or opens what an earlier call with the same rows has left.

        Args:
            features: Features.
            labels: (rows,) integers in [0, k), an array or memory map.
            k: number of clusters.
            folder: where the order is written; what belongs to others there is removed.
            without: (n,) ascending row ids that are left out.
            comm: Communicator of the workers that share the rows, which all make the call.

        Raises:
            DataError: a label out of range, or a row that is not finite.
        """
        comm, without = comm or ALONE, np.asarray(without, np.int64)
        with raise_on_all(comm):
            if comm.rank == 0:
                _claim(features, labels, k, folder, without)
        if len(all_missing([[os.path.join(folder, _LAST)]], comm)):
            _make(features, labels, k, folder, without, comm)
        starts, centroids = (np.load(os.path.join(folder, name)) for name in (_STARTS, _LAST))
        order = np.load(os.path.join(folder, _ORDER), mmap_mode="r")
        return cls(order, starts, centroids)

    def rows_of(self, cluster, part=slice(None)) -> np.ndarray:
        """(n,) int64 row ids of a cluster, or of a slice of it, ascending."""
        return np.array(self._order[self.starts[cluster] : self.starts[cluster + 1]][part])

    def next_to(self, neighbours) -> list[np.ndarray]:
        """For each cluster, those of a higher number that it is to be compared with.

        Two clusters are compared if one is among the nearest `neighbours` of the other, by the
        cosine of their centroids.

        Returns:
            list of k ascending int64 arrays.
        """
        count = min(neighbours, self.k - 1)
        if count < 1:
            return [np.empty(0, np.int64)] * self.k
        points = as_points(self.centroids)
        found = nearest_rows(points, self.centroids, count + 1, what="clusters next to another")
        own = np.repeat(np.arange(self.k), count + 1)
        other = found.rows.ravel()
        pairs = np.unique(np.stack([np.minimum(own, other), np.maximum(own, other)], 1), axis=0)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        return np.split(pairs[:, 1], np.searchsorted(pairs[:, 0], np.arange(1, self.k)))


def _claim(features, labels, k, folder, without):
    """Empties the folder unless it has the order of these rows."""
    digest = hashlib.sha256(without.tobytes())
    for start in range(0, features.rows, _BLOCK_ROWS):
        own = labels[start : min(start + _BLOCK_ROWS, features.rows)]
        digest.update(np.ascontiguousarray(own, np.int64).tobytes())
    owner = {"features": features.fingerprint(), "k": k, "labels": digest.hexdigest()}
    atomic.reset_foreign(os.path.join(folder, "owner.json"), owner)


def _make(features, labels, k, folder, without, comm):
    counts, sums = np.zeros(k, np.int64), np.zeros((k, features.dim))
    own = row_block(features.rows, comm.rank, comm.size)
    shown = Progress(len(own), "clusters", "rows", enabled=comm.rank == 0)
    with raise_on_all(comm), shown as progress:
        for start, block in unit_blocks(features, own.start, own.stop):
            rows, clusters = _kept(labels, start, len(block), k, without)
            counts += np.bincount(clusters, minlength=k)
            _add(sums, clusters, block[rows - start])
            progress.update(len(block))
            stop_request.raise_if_requested("what was done before is kept")
    counts, sums = all_sum_array(counts, comm), all_sum_array(sums, comm)
    with raise_on_all(comm):
        if comm.rank == 0:
            starts = np.concatenate([[0], np.cumsum(counts)])
            path, shape = os.path.join(folder, _ORDER), (max(1, int(starts[-1])),)
            order = np.lib.format.open_memmap(path, "w+", np.int64, shape)
            _fill(order, labels, starts[:-1].copy(), features.rows, k, without)
            order.flush()
            for name, array in ((_STARTS, starts), (_LAST, unit(sums))):
                path = os.path.join(folder, name)
                atomic.write_file(path, lambda file, array=array: np.save(file, array))


def _kept(labels, start, count, k, without):
    """Row ids of a block that are not left out, and their labels."""
    rows = np.arange(start, start + count)
    rows = rows[~np.isin(rows, without[slice(*np.searchsorted(without, (start, start + count)))])]
    own = np.asarray(labels[start : start + count]).astype(np.int64)[rows - start]
    wrong = np.flatnonzero((own < 0) | (own >= k))
    if wrong.size:
        raise DataError(
            f"row {rows[wrong[0]]} is in cluster {own[wrong[0]]}, but clusters are 0..{k - 1}."
        )
    return rows, own


def _add(sums, own, block):
    """Adds rows to the sums of their clusters."""
    if not len(own):
        return
    order = np.argsort(own, kind="stable")
    clusters, first = np.unique(own[order], return_index=True)
    sums[clusters] += np.add.reduceat(block[order], first, axis=0, dtype=np.float64)


def _fill(order, labels, places, rows, k, without, block_rows=_BLOCK_ROWS):
    """Writes row ids in the order of their clusters; `places` is the next position of each."""
    for start in range(0, rows, block_rows):
        ids, own = _kept(labels, start, min(block_rows, rows - start), k, without)
        by_cluster = np.argsort(own, kind="stable")
        ids, own = ids[by_cluster], own[by_cluster]
        clusters, first, counts = np.unique(own, return_index=True, return_counts=True)
        inside = np.arange(len(own)) - np.repeat(first, counts)
        order[places[own] + inside] = ids
        places[clusters] += counts
