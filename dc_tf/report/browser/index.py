"""The rows of each cluster by their distance to the centroid, and statistics of clusters, on disk.

    index = ClusterIndex.of(clustering, "WORK/index")        # made once
    index.members(12)[:60]                                   # row ids, the nearest first
    index.sizes, index.spread, index.purity                  # (count,) each

Rows are sorted in passes over some clusters each, so memory does not depend on their number. Files
of rows are memory-mapped when they are used.

Folder:
    owner.json      digest of labels and distances; another clustering replaces the folder
    order.npy       (N,) row ids by cluster, then distance, then row id
    flat.npy        (N,) cluster of each row
    distance.npy    (N,) float32 distance of each row to its centroid; absent where not known
    farthest.npy    ids of the rows that are farthest for their cluster, the farthest first
    statistics.npz     statistics of clusters; written last
"""

import hashlib
import os

import numpy as np

from dc_tf import atomic
from dc_tf.curation.clusters import outliers
from dc_tf.distributed import stop_request
from dc_tf.progress import Progress

_PASS_ROWS = 1 << 22  # sorted in memory at a time
_FARTHEST = 1200
_STATISTICS = "statistics.npz"
_VERSION = 2


class ClusterIndex:
    """An opened index.

    Attributes:
        count: number of clusters, of both levels.
        rows: number of rows, N.
        offsets: (count + 1,) int64: `order[offsets[c] : offsets[c + 1]]` are the rows of cluster c.
        sizes: (count,) int64.
        order, flat: (N,) integers, memory-mapped.
        distance: (N,) float32, memory-mapped, or None.
        spread, deviation: (count,) float32 mean of the distances and their standard deviation; NaN
            for empty clusters and unknown distances.
        labelled: (count,) int64 rows with a label.
        label: (count,) int64 most frequent label; -1 without one.
        purity: (count,) float32 share of that label among rows with one; NaN without one.
        farthest: (n,) int64 row ids, those that are farthest for their cluster first.
        outliers: number of outliers, by the rule of clusters.outliers.
    """

    def __init__(self, folder):
        with np.load(os.path.join(folder, _STATISTICS)) as statistics:
            self.sizes = statistics["sizes"]
            self.spread, self.deviation = statistics["spread"], statistics["deviation"]
            self.labelled = statistics["labelled"]
            self.outliers = int(statistics["outliers"])
            self.label = statistics["label"]
            self.purity = statistics["purity"]
        self.count = len(self.sizes)
        self.offsets = _offsets(self.sizes)
        self.order = np.load(_path(folder, "order"), mmap_mode="r")
        self.flat = np.load(_path(folder, "flat"), mmap_mode="r")
        self.rows = len(self.order)
        self.farthest = np.load(_path(folder, "farthest"))
        self.distance = None
        if os.path.isfile(_path(folder, "distance")):
            self.distance = np.load(_path(folder, "distance"), mmap_mode="r")

    @classmethod
    def of(cls, clustering, folder: str) -> "ClusterIndex":
        """Opens the index of a clusters.open.Clustering; makes it if it is missing.

        Raises:
            Preempted: after Ctrl-C.
        """
        owner = {"labels": _digest(clustering), "version": _VERSION}
        owner["data"] = clustering.dataset.fingerprint()
        atomic.reset_foreign(os.path.join(folder, "owner.json"), owner)
        if not os.path.isfile(os.path.join(folder, _STATISTICS)):
            _build(clustering, folder)
        return cls(folder)

    def deviations(self, rows) -> np.ndarray:
        """(n,) by how many standard deviations rows are beyond the mean of their clusters."""
        statistics = np.stack([self.spread, self.deviation], 1)
        return outliers.deviations(self.distance[rows], self.flat[rows], statistics, self.sizes)

    def members(self, cluster: int) -> np.ndarray:
        """(size,) row ids of a cluster, the nearest to its centroid first; memory-mapped."""
        return self.order[self.offsets[cluster] : self.offsets[cluster + 1]]


def write_rows(path: str, dtype, rows: int, fill) -> None:
    """Writes an array of all rows: `fill` gets it memory-mapped; the file is complete or absent."""
    with atomic.replacing(path, ending=".npy") as staging:
        array = np.lib.format.open_memmap(staging, "w+", dtype, (rows,))
        fill(array)
        array.flush()


def row_type(count) -> np.dtype:
    """The integer type for ids below `count`."""
    return np.dtype(np.int32 if count < 2**31 else np.int64)


def _path(folder, name):
    return os.path.join(folder, f"{name}.npy")


def _offsets(sizes):
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _digest(clustering):
    digest = hashlib.blake2b(f"{clustering.clusters} {clustering.sub_clusters}".encode())
    for _, flat, distance in clustering.blocks():
        digest.update(flat.tobytes())
        if distance is not None:
            digest.update(np.ascontiguousarray(distance, np.float32).tobytes())
    return digest.hexdigest()


def _build(clustering, folder):
    rows, sizes = clustering.dataset.rows, clustering.sizes()
    _write_columns(clustering, folder)
    statistics = _Statistics(sizes)

    def fill(order):
        with Progress(rows, "sort clusters", "images") as progress:
            for low, high in _ranges(sizes):
                own, flat, distance, labels = _gathered(clustering, low, high)
                by = np.lexsort((own, distance, flat))
                order[statistics.offsets[low] : statistics.offsets[high]] = own[by]
                statistics.add(own[by], flat[by], distance[by], labels[by])
                progress.update(len(own))
                stop_request.raise_if_requested("the same call starts it again")

    write_rows(_path(folder, "order"), row_type(rows), rows, fill)
    known = clustering.distance is not None
    atomic.write_file(
        _path(folder, "farthest"), lambda file: np.save(file, statistics.farthest(known))
    )
    atomic.write_file(
        os.path.join(folder, _STATISTICS), lambda file: np.savez(file, **statistics.arrays(known))
    )


def _write_columns(clustering, folder):
    """Writes `flat` and `distance`."""
    rows = clustering.dataset.rows

    def fill_flat(array):
        for first, flat, _ in clustering.blocks():
            array[first : first + len(flat)] = flat

    def fill_distance(array):
        for first, _, distance in clustering.blocks():
            array[first : first + len(distance)] = distance

    write_rows(_path(folder, "flat"), row_type(clustering.count), rows, fill_flat)
    if clustering.distance is not None:
        write_rows(_path(folder, "distance"), np.float32, rows, fill_distance)


def _ranges(sizes):
    """Yields (low, high): consecutive clusters with at most `_PASS_ROWS` rows, at least one."""
    offsets, low = _offsets(sizes), 0
    while low < len(sizes):
        high = int(np.searchsorted(offsets, offsets[low] + _PASS_ROWS, side="right")) - 1
        high = max(low + 1, high)
        yield low, high
        low = high


def _gathered(clustering, low, high):
    """Row ids, clusters, distances (zeros if unknown) and labels of the rows of some clusters."""
    found, first = [], 0
    for entries in clustering.dataset.entries():
        part = slice(first, first + len(entries))
        flat = clustering.flat(part)
        inside = np.flatnonzero((flat >= low) & (flat < high))
        distance = np.zeros(len(inside), np.float32)
        if clustering.distance is not None:
            distance = np.asarray(clustering.distance[part])[inside]
        found.append((first + inside, flat[inside], distance, np.asarray(entries[:, 2])[inside]))
        first += len(entries)
    return [np.concatenate(column) for column in zip(*found, strict=True)]


class _Statistics:
    """Figures of clusters, from the rows of all."""

    def __init__(self, sizes):
        count = len(sizes)
        self.offsets = _offsets(sizes)
        self._sizes = sizes
        self._spread, self._deviation = np.full((2, count), np.nan, np.float32)
        self._labelled = np.zeros(count, np.int64)
        self._label = np.full(count, -1, np.int64)
        self._purity = np.full(count, np.nan, np.float32)
        self._far, self._outliers = (np.zeros(0, np.int64), np.zeros(0)), 0

    def add(self, rows, flat, distance, labels):
        """Adds all rows of some clusters, sorted by cluster."""
        if not len(rows):
            return
        clusters, first = np.unique(flat, return_index=True)
        sums = np.add.reduceat(distance, first, dtype=np.float64)
        mean = sums / self._sizes[clusters]
        self._spread[clusters] = mean
        squares = (distance - np.repeat(mean, self._sizes[clusters])) ** 2
        sums = np.add.reduceat(squares, first, dtype=np.float64)
        self._deviation[clusters] = np.sqrt(sums / self._sizes[clusters])
        self._add_farthest(rows, flat, distance)
        self._add_labels(flat[labels >= 0], labels[labels >= 0])

    def arrays(self, known_distances):
        unknown = np.full_like(self._spread, np.nan)
        return {
            "sizes": self._sizes,
            "spread": self._spread if known_distances else unknown,
            "deviation": self._deviation if known_distances else unknown,
            "outliers": self._outliers if known_distances else 0,
            "labelled": self._labelled,
            "label": self._label,
            "purity": self._purity,
        }

    def farthest(self, known_distances):
        return self._far[0] if known_distances else np.zeros(0, np.int64)

    def _add_farthest(self, rows, flat, distance):
        statistics = np.stack([self._spread, self._deviation], 1)
        beyond = outliers.deviations(distance, flat, statistics, self._sizes)
        self._outliers += int(np.count_nonzero(outliers.is_outlier(beyond)))
        comparable = self._sizes[flat] >= outliers.TINY
        ids = np.concatenate([self._far[0], rows[comparable]])
        beyond = np.concatenate([self._far[1], beyond[comparable]])
        best = np.argsort(-beyond, kind="stable")[:_FARTHEST]
        self._far = ids[best], beyond[best]

    def _add_labels(self, flat, labels):
        if not len(flat):
            return
        order = np.lexsort((labels, flat))
        flat, labels = flat[order], labels[order]
        starts = np.flatnonzero(np.diff(flat, prepend=-1) | np.diff(labels, prepend=-1))
        times = np.diff(np.append(starts, len(flat)))
        clusters, labels = flat[starts], labels[starts]
        np.add.at(self._labelled, clusters, times)
        most = np.lexsort((labels, -times, clusters))
        own, first = np.unique(clusters[most], return_index=True)
        self._label[own] = labels[most][first]
        self._purity[own] = times[most][first] / self._labelled[own]
