"""Outliers and the tail of a clustering: one rule for the table, the report and the browser.

    statistics = distance_statistics(clustering)               # of each cluster, in one pass
    is_outlier(deviations(distance, clusters, statistics, sizes))
    farthest(clustering, statistics, sizes, 24)                # [(row, cluster, deviations)]
    sizes < TINY
    sources = Sources(clustering.count); sources.add(clusters, users); sources.single()

- An outlier is an image whose distance to its centroid exceeds the mean distance in its cluster by
  more than `DEVIATIONS` standard deviations of the distances there.
- A cluster is tiny if it has fewer than `TINY` images. It has no outliers.
- A cluster is of a single source if at least `TINY` of its images have a source and all of these
  have the same. The source of an image is its user: see `source_column`.
"""

import hashlib

import numpy as np

DEVIATIONS = 3.0
TINY = 5
_USERS = ("user", "users", "user_id", "username", "photographer", "owner", "author", "uploader")


def source_column(names) -> str | None:
    """The name of the column of metadata that says whose an image is, if there is one."""
    return next((name for name in _USERS if name in names), None)


def distance_statistics(clustering) -> np.ndarray | None:
    """(count, 2) float64 mean and standard deviation of the distances of each cluster's rows.

    None where distances are not known; NaN for empty clusters.

    Args:
        clustering: clusters.open.Clustering.
    """
    if clustering.distance is None:
        return None
    sums = np.zeros((2, clustering.count))
    counts = clustering.sizes()
    with np.errstate(invalid="ignore", divide="ignore"):
        for _, flat, distance in clustering.blocks():
            sums[0] += np.bincount(flat, distance, clustering.count)
        mean = sums[0] / counts
        for _, flat, distance in clustering.blocks():  # about the mean, which loses no digits
            difference = np.asarray(distance, np.float64) - mean[flat]
            sums[1] += np.bincount(flat, difference**2, clustering.count)
        return np.stack([mean, np.sqrt(sums[1] / counts)], 1)


def deviations(distance, clusters, statistics, sizes) -> np.ndarray:
    """(n,) float64: by how many standard deviations of its cluster a row is beyond the mean there.

    0 in tiny clusters, and where all rows are equally far.

    Args:
        distance: (n,) of rows to their centroids.
        clusters: (n,) their clusters.
        statistics: of `distance_statistics`.
        sizes: (count,) rows of each cluster.
    """
    mean, spread = statistics[clusters].T
    comparable = (sizes[clusters] >= TINY) & (spread > 1e-6 * mean)  # more than rounding
    beyond = np.asarray(distance, np.float64) - mean
    return np.where(comparable, beyond / np.where(comparable, spread, 1), 0)


def is_outlier(deviations) -> np.ndarray:
    """(n,) bool of `deviations`."""
    return deviations > DEVIATIONS


def farthest(clustering, statistics, sizes, count: int) -> tuple[list, int]:
    """The rows that are farthest for their cluster, in one pass over all rows.

    Args:
        clustering: clusters.open.Clustering with distances.
        statistics: of `distance_statistics`.
        sizes: (count,) rows of each cluster.
        count: at most so many rows.

    Returns:
        list of (row id, cluster, deviations), the largest first; and the number of outliers.
    """
    kept, outliers = np.zeros((0, 3)), 0
    for first, flat, distance in clustering.blocks():
        beyond = deviations(distance, flat, statistics, sizes)
        outliers += int(np.count_nonzero(is_outlier(beyond)))
        top = np.argsort(-beyond, kind="stable")[:count]
        kept = np.concatenate([kept, np.stack([first + top, flat[top], beyond[top]], 1)])
        kept = kept[np.argsort(-kept[:, 2], kind="stable")][:count]
    return [(int(row), int(cluster), float(far)) for row, cluster, far in kept], outliers


class Sources:
    """Whether the images of each cluster have one source; collects them a block at a time.

    Memory is 17 bytes a cluster.
    """

    def __init__(self, count):
        self._known = np.zeros(count, np.int64)
        self._first = np.zeros(count, np.uint64)
        self._mixed = np.zeros(count, bool)

    def add(self, clusters, values) -> None:
        """Adds rows.

        Args:
            clusters: (n,) integers.
            values: (n,) pyarrow array of texts, numbers or lists of them; null without a source.
        """
        there = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
        clusters, digests = np.asarray(clusters)[there], _digests(values.drop_null())
        unseen = self._known[clusters] == 0
        self._first[clusters[unseen][::-1]] = digests[unseen][::-1]  # that of the first row stays
        self._known += np.bincount(clusters, minlength=len(self._known))
        self._mixed[clusters[digests != self._first[clusters]]] = True

    def single(self) -> np.ndarray:
        """(count,) bool."""
        return ~self._mixed & (self._known >= TINY)


def _digests(values):
    """(n,) uint64 of equal values equal; each distinct value is looked at once."""
    import pyarrow as pa

    if pa.types.is_list(values.type):
        values = pa.array([repr(value) for value in values.to_pylist()])
    encoded = values.dictionary_encode()
    texts = (repr(value).encode() for value in encoded.dictionary.to_pylist())
    digests = [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) for text in texts]
    return np.array(digests, np.uint64)[encoded.indices.to_numpy()]
