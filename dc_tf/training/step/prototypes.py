"""Frozen classifiers of sub-classes: the centroids of the round, compared by their angle.

    prototypes = Prototypes(cluster, plan, stage, features=128)
    prototypes.load(ClusterModel.load(folder))
    logits = prototypes.logits(features)       # (b, C * k): cosines over the temperature

A worker holds the prototypes of the clusters that it serves. They are no part of a checkpoint, get
no gradient and have no state of an optimizer. After a reassignment they fit the new sub-classes at
once, where linear heads start from random weights.

Reference: Caron et al. 2020, appendix A (DeepCluster-v2). Rotations are from Caron et al. 2019.
"""

import numpy as np
import tensorflow as tf

# Added to the logit of a sub-class without rows, whose prototype repeats another one.
_NEVER = -1e9


class Prototypes:
    """The prototypes of the super-classes that one worker serves.

    Attributes:
        maps: (R, d, d) float32 variable, mirrored: the linear map of each rotation, which starts as
            the identity and keeps its weights in later rounds; None where rotations share
            prototypes.
    """

    def __init__(self, cluster, plan, stage, features: int):
        """Creates variables; `load` fills them.

        Args:
            cluster: Cluster.
            plan: BatchPlan of the stage.
            stage: experiment.Stage, with prototypes.
            features: d, length of the features, which have L2 norm 1.
        """
        self._rotations = plan.rotations
        self._served = plan.topology.served(cluster.rank)
        self._temperature = stage.temperature
        clusters = sorted({super_class // plan.rotations for super_class in self._served})
        self._of_cluster = {c: _Frozen(stage.sub_classes, features) for c in clusters}
        self.maps = None
        if stage.prototype_rotation == "mapped":
            with cluster.strategy.scope():
                identity = np.eye(features, dtype=np.float32)
                self.maps = tf.Variable(np.stack([identity] * plan.rotations), name="maps")

    @property
    def shared_weights(self) -> list[tf.Variable]:
        """Trainable weights, which all workers hold."""
        return [] if self.maps is None else [self.maps]

    def load(self, model) -> None:
        """Takes the centroids of a round.

        Args:
            model: clustering.cluster_model.ClusterModel of the round.
        """
        for cluster, frozen in self._of_cluster.items():
            frozen.load(*model.all_sub_centroids(cluster))

    def logits(self, features) -> tf.Tensor:
        """(b, C * k) float32, each image by the prototypes of its own super-class.

        Args:
            features: (b, d) float32 of L2 norm 1, ordered by the served super-classes.
        """
        parts = tf.split(features, len(self._served))
        found = [self._logits(x, s) for x, s in zip(parts, self._served, strict=True)]
        return tf.concat(found, 0) / self._temperature

    def _logits(self, x, super_class):
        cluster, rotation = divmod(super_class, self._rotations)
        if self.maps is not None:
            x = tf.math.l2_normalize(tf.matmul(x, self.maps[rotation]), -1)
        return self._of_cluster[cluster].cosines(x)


class _Frozen:
    """The prototypes of one cluster, (C * k, d), and which of its sub-clusters have rows."""

    def __init__(self, classes, features):
        self._centroids = tf.Variable(tf.zeros([classes, features]), trainable=False)
        self._offset = tf.Variable(tf.zeros([classes]), trainable=False)

    def load(self, centroids, counts):
        centroids = tf.math.l2_normalize(tf.constant(np.array(centroids, np.float32)), -1)
        self._centroids.assign(centroids)
        self._offset.assign(np.where(counts > 0, 0.0, _NEVER).astype(np.float32))

    def cosines(self, x):
        return tf.matmul(x, self._centroids, transpose_b=True) + self._offset
