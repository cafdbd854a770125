"""Clusters of features of any origin, to be compared with labels and metadata.

clustering = cluster_features(request, k=100, dataset=Dataset.open("DATA"))
clustering.levels(dataset)                      # {"clusters": (N,) labels of the data set's rows}
"""

import dataclasses

import numpy as np

from dc_tf.clustering.kmeans import kmeans
from dc_tf.clustering.store.points import Block
from dc_tf.distributed.blocks import gather_rows, row_block
from dc_tf.errors import ConfigError
from dc_tf.evaluation.frozen.given_features import open_matrix, places_of


@dataclasses.dataclass(frozen=True)
class FeatureClustering:
    """Clusters of the rows of a data set; as `clusterings.KMeansClustering`.

    Attributes:
        labels: (N,) int64.
    """

    labels: np.ndarray
    stage = None
    round = None

    def levels(self, dataset) -> dict[str, np.ndarray]:
        """{"clusters": (N,) labels}."""
        del dataset
        return {"clusters": self.labels}


def cluster_features(request, k: int, dataset) -> FeatureClustering:
    """k-means of the features of --features, whose rows all workers share.

    Args:
        request: tasks.Request with `features`.
        k: number of clusters; 0: as many as the data set has classes.
        dataset: the Dataset of the features, or a view of it.

    Raises:
        ConfigError: the features are not of the data set, or k is 0 and there are no labels.
        DataError: features that cannot be read, or are not finite.
    """
    features, world = open_matrix(request, "features"), request.world
    places = places_of(features, dataset, np.arange(dataset.rows))
    k = k or _classes(dataset)
    own = row_block(features.rows, world.rank, world.size)
    block = Block(features, own.start, own.stop)
    found = kmeans(block, k, comm=world, seed=request.seed).assignments
    labels = gather_rows(found.astype(np.int64), own, features.rows, world)
    return FeatureClustering(labels[places])


def _classes(dataset) -> int:
    labels = dataset.labels()
    count = len(np.unique(labels[labels >= 0]))
    if not count:
        raise ConfigError(
            f"--train={dataset.path} has no labels, which would give the number of clusters; give "
            "it as --params_override=k=100."
        )
    return count
