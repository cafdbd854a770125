"""Clusters of features of any origin, to be compared with labels and metadata.

clusters = FeatureClusters(request, k=100, dataset=Dataset.open("DATA"))
clusters.find().levels(dataset)                 # {"clusters": (N,) labels of the data set's rows}
"""

import dataclasses

import numpy as np

from dc_tf.clustering.kmeans import kmeans
from dc_tf.clustering.store.points import Block
from dc_tf.distributed.blocks import gather_rows, row_block
from dc_tf.errors import ConfigError
from dc_tf.evaluation.cost import Part
from dc_tf.evaluation.frozen.given_features import open_matrix, places_of
from dc_tf.kmeans_options import KMeansOptions


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


class FeatureClusters:
    """k-means of the features of --features, whose rows all workers share.

    Args:
        request: tasks.Request with `features`.
        k: number of clusters; 0: as many as the data set has classes.
        dataset: the Dataset of the features, or a view of it.

    Raises:
        ConfigError: the features are not of the data set, or k is 0 and there are no labels.
    """

    def __init__(self, request, k: int, dataset):
        self._features = open_matrix(request, "features")
        self._places = places_of(self._features, dataset, np.arange(dataset.rows))
        self._k = k or _classes(dataset)
        self._seed, self._world = request.seed, request.world

    def part(self) -> Part:
        """The work, in rows that are compared with the centroids."""
        features, passes = self._features, KMeansOptions().iterations + 1

        def sample(wanted):
            # One iteration and the final assignment, of at least as many rows as clusters.
            rows = min(features.rows, max(self._k, -(-wanted // 2)))
            kmeans(Block(features, 0, rows), self._k, seed=self._seed, iterations=1)
            return 2 * rows

        return Part("rows of k-means", passes * features.rows, sample, 2 * features.rows)

    def find(self) -> FeatureClustering:
        """The clusters, on all workers.

        Raises:
            DataError: features that cannot be read, or are not finite.
        """
        own = row_block(self._features.rows, self._world.rank, self._world.size)
        block = Block(self._features, own.start, own.stop)
        found = kmeans(block, self._k, comm=self._world, seed=self._seed).assignments
        labels = gather_rows(found.astype(np.int64), own, self._features.rows, self._world)
        return FeatureClustering(labels[self._places])


def _classes(dataset) -> int:
    labels = dataset.labels()
    count = len(np.unique(labels[labels >= 0]))
    if not count:
        raise ConfigError(
            f"--train={dataset.path} has no labels, which would give the number of clusters; give "
            "it as --params_override=k=100."
        )
    return count
