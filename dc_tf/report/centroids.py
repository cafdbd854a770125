"""Centroids of some clusters, read from where a clustering has kept them.

centroids = centroids_of(clustering, np.array([3, 7]))     # (2, d), or None
"""

import numpy as np

from dc_tf.clustering.cluster_model import ClusterModel
from dc_tf.clustering.kept_clustering import kept_rounds
from dc_tf.run_dir import RunDir


def centroids_of(clustering, numbers) -> np.ndarray | None:
    """(n, d) float32 centroids of clusters; None where they are not kept.

    Args:
        clustering: clusters.open.Clustering.
        numbers: (n,) numbers of clusters, in any order.
    """
    if clustering.centroids is not None:
        return np.float32(clustering.centroids[numbers])
    if clustering.stage is None:
        return None
    kept = kept_rounds(RunDir(clustering.path).clusterings)
    path = kept.get((clustering.stage, clustering.round))
    return None if path is None else _of_model(ClusterModel.load(path), numbers)


def _of_model(model, numbers):
    """The centroids of the lowest level of a ClusterModel."""
    if not model.sub_centroids:
        return np.float32(model.super_centroids[numbers])
    sub_clusters = model.counts.shape[1]
    return np.stack(
        [
            np.float32(model.sub_centroids[number // sub_clusters][number % sub_clusters])
            for number in np.asarray(numbers).tolist()
        ]
    )
