"""Assigns new features to the clusters of a run: whitens, then finds the nearest centroids.

    model = load_clustering(RunDir("/runs/mine"))          # the newest clustering that is kept
    found = model.assign(features)                         # (n, raw_dim) fc7, not whitened
    found.cluster, found.sub, found.distance, found.ratio

`assign` on the features that were clustered returns the run's assignments; where two centroids are
equally near in float32, or with bfloat16 products nearly so, a row may get the other one.
"""

import dataclasses
import os
import zipfile
from typing import NamedTuple

import numpy as np
from ml_dtypes import finfo

from dc_tf.atomic import read_json
from dc_tf.clustering import kept_clustering as files
from dc_tf.clustering.nearness import CHUNK_BYTES, two_nearest
from dc_tf.clustering.search.tensors import exact_float32
from dc_tf.clustering.store.points import BFLOAT16, Subset, as_points, chunks
from dc_tf.clustering.store.whitening import Whitening
from dc_tf.errors import ConfigError, DataError


class ClusterAssignment(NamedTuple):
    """The nearest cluster of each of n rows.

    Attributes:
        cluster: (n,) int32 in [0, clusters).
        sub: (n,) int32 in [0, max(1, sub_clusters)), inside the cluster.
        distance: (n,) float32, Euclidean distance of the whitened row to the centroid of its
            sub-cluster, or of its cluster without sub-clusters.
        ratio: (n,) float32, `distance` over the distance to the second nearest centroid of the same
            level; near 1 for an ambiguous row, 0 if there is no second.
    """

    cluster: np.ndarray
    sub: np.ndarray
    distance: np.ndarray
    ratio: np.ndarray


@dataclasses.dataclass(frozen=True)
class ClusterModel:
    """One clustering of a run, with all that is needed to assign features to it.

    Attributes:
        path: folder of the centroids; `path/network` is the prefix of a TensorFlow checkpoint with
            the trunk whose features were clustered.
        stage, round, step: index of the stage, of the clustering in it, and global step at which
            the features were extracted.
        rows: number of rows that were clustered.
        description: dict, the content of `centroids.json`.
        whitening: Whitening from (raw_dim,) to (dim,) components; None where features were
            clustered as they are.
        super_centroids: (clusters, dim) float32, or None with one cluster.
        sub_centroids: a (sub_clusters, dim) float32 for each cluster, memory-mapped; empty without
            sub-clusters.
        counts: (clusters, max(1, sub_clusters)) int64, rows of each sub-cluster in the run. Rows
            are never assigned to clusters without rows.
        further_centroids: like `sub_centroids`, of the clusterings after the first, one after the
            other.
        further_counts: ((clusterings - 1) * clusters, sub_clusters) int64, of these.
        store_dtype: NumPy dtype that features are rounded to before and after whitening, as in the
            run.
    """

    path: str
    stage: int
    round: int
    step: int
    rows: int
    description: dict
    whitening: Whitening | None
    super_centroids: np.ndarray | None
    sub_centroids: tuple[np.ndarray, ...]
    counts: np.ndarray
    further_centroids: tuple[np.ndarray, ...]
    further_counts: np.ndarray
    store_dtype: np.dtype

    @classmethod
    def load(cls, path: str) -> "ClusterModel":
        """Reads a folder of centroids.

        Raises:
            DataError: it is incomplete or corrupt.
        """
        try:
            about = read_json(os.path.join(path, files.DESCRIPTION))
            _check_sizes(path, about["bytes"])
            counts = np.load(os.path.join(path, files.COUNTS), allow_pickle=False)
            clusters = len(counts) // about["clusterings"]
            subs = range(len(counts) if about["sub_clusters"] else 0)
            centroids = tuple(_mapped(path, files.sub_name(index)) for index in subs)
            return cls(
                path=path,
                stage=about["stage"],
                round=about["round"],
                step=about["step"],
                rows=about["rows"],
                description=about,
                whitening=_whitening(path, about),
                super_centroids=_mapped(path, files.SUPER) if clusters > 1 else None,
                sub_centroids=centroids[:clusters],
                counts=counts[:clusters],
                further_centroids=centroids[clusters:],
                further_counts=counts[clusters:],
                store_dtype=_dtype(about["store_dtype"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} holds no complete centroids ({error!r}); restore them, or choose another "
                "round that keeps its own."
            ) from error

    def all_sub_centroids(self, cluster: int) -> tuple[np.ndarray, np.ndarray]:
        """Centroids and counts inside a cluster, of all clusterings one after the other.

        Returns:
            (clusterings * sub_clusters, dim) float32 and (clusterings * sub_clusters,) int64.
        """
        every = slice(cluster, None, len(self.counts))
        centroids = (*self.sub_centroids, *self.further_centroids)[every]
        counts = np.concatenate([self.counts, self.further_counts])[every]
        return np.concatenate(centroids), counts.ravel()

    def nearness(self) -> np.ndarray | None:
        """(rows, 2) float32: distance and ratio, as of `assign`, of the rows that were clustered.

        None if the disk was full when they were to be written.

        Raises:
            DataError: the files are corrupt, or not of all rows.
        """
        try:
            blocks = files.read_nearness(self.path, self.description["workers"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{self.path}: distances are corrupt ({error!r}); restore their files, or choose "
                "another round."
            ) from error
        if blocks is None:
            return None
        found = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        if len(found) != self.rows:
            raise DataError(f"{self.path} has distances of {len(found)} rows, not {self.rows}.")
        return found

    @exact_float32()
    def assign(self, features) -> ClusterAssignment:
        """Assigns features to clusters, and to sub-clusters inside them.

        Memory beside the result does not grow with the number of rows.

        Args:
            features: (n, raw_dim) floating array, `FeatureStore` or other `points.Points`: rows as
                the network returns them, not whitened.

        Raises:
            DataError: rows have another length, or are not finite.
        """
        points = as_points(features)
        raw_dim = self.description["raw_dim"]
        if points.dim != raw_dim:
            raise DataError(
                f"features have {points.dim} components; this clustering has {raw_dim}."
            )
        found = ClusterAssignment(
            np.zeros(points.rows, np.int32),
            np.zeros(points.rows, np.int32),
            np.zeros(points.rows, np.float32),
            np.zeros(points.rows, np.float32),
        )
        if self.super_centroids is not None:
            everywhere = np.arange(points.rows)
            used = self.counts.sum(1) > 0
            self._assign_level(points, everywhere, self.super_centroids, used, found, found.cluster)
        for index, centroids in enumerate(self.sub_centroids):
            members = np.flatnonzero(found.cluster == index)
            used = self.counts[index] > 0
            self._assign_level(points, members, centroids, used, found, found.sub)
        return found

    def _assign_level(self, points, members, centroids, used, found, labels):
        """Assigns the rows at `members` to `centroids`, changing `labels` and `found`."""
        step = max(1, CHUNK_BYTES // (4 * max(points.dim, centroids.shape[1])))
        for start, rows in chunks(Subset(points, members), step):
            these = members[start : start + len(rows)]
            x = self._whitened(rows, these)
            labels[these], found.distance[these], found.ratio[these] = two_nearest(
                x, centroids, used
            )

    def _whitened(self, rows, positions):
        """(n, dim) float32 rows, rounded as the run has stored them."""
        rows = np.asarray(rows)
        if rows.dtype != np.float64:
            rows = rows.astype(np.float32)
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise DataError(f"features of row {positions[np.argmin(finite)]} are not finite.")
        largest = float(finfo(self.store_dtype).max)
        stored = np.clip(rows, -largest, largest).astype(self.store_dtype)
        if self.whitening is not None:
            stored = self.whitening.apply(stored).astype(self.store_dtype)
        return stored.astype(np.float32)


def load_clustering(run_dir, round: int | None = None, stage: int | None = None) -> ClusterModel:
    """A clustering of a run that is kept (setting `keep_clusterings`).

    Args:
        run_dir: RunDir.
        round: index of the clustering in its stage; None for the newest.
        stage: index of the stage; None for the newest with a kept clustering.

    Raises:
        ConfigError: the run has kept no such clustering; names those it has.
        DataError: the files are incomplete or corrupt.
    """
    kept = files.kept_rounds(run_dir.clusterings)
    if stage is None and kept:
        stage = max(kept)[0]
    rounds = [r for s, r in kept if s == stage]
    if round is None and rounds:
        round = max(rounds)
    if (stage, round) not in kept:
        have = ", ".join(f"round {r} of stage {s}" for s, r in kept) or "none"
        raise ConfigError(
            f"{run_dir.path} keeps no centroids of round {round} of stage {stage}, but of {have}; "
            "keep_clusterings is the number of newest clusterings that a run keeps."
        )
    return ClusterModel.load(kept[stage, round])


def _check_sizes(path, expected):
    found = files.file_sizes(path)
    wrong = [name for name, size in expected.items() if found.get(name) != size]
    if wrong:
        raise ValueError(f"{wrong[0]} is missing or has another size than {expected[wrong[0]]}")


def _whitening(path, about):
    if files.WHITENING not in about["bytes"]:
        return None
    return Whitening.load(os.path.join(path, files.WHITENING))


def _dtype(name):
    return BFLOAT16 if name == BFLOAT16.name else np.dtype(name)


def _mapped(path, name):
    return np.load(os.path.join(path, name), mmap_mode="r", allow_pickle=False)
