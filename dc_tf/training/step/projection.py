"""The projection of a stage: a new one with initial weights, or that of a kept clustering.

projection = new_projection(stage, trunk, seed=0, stage_index=1)        # None without one
projection = projection_of_clustering(model, trunk, stage)
"""

import os

import tensorflow as tf

from dc_tf.clustering.kept_clustering import NETWORK
from dc_tf.nn.projection import Projection
from dc_tf.seeds import derive

_SEEDS = 2**20  # seeds of initializers are int32


def new_projection(stage, trunk, seed=0, stage_index=0) -> Projection | None:
    """The projection of a stage with its initial weights, or None without one.

    Args:
        stage: experiment.Stage.
        trunk: the network below it.
        seed: of the experiment.
        stage_index: index of the stage in the experiment.
    """
    settings = stage.projection
    if not settings.dim:
        return None
    seed = derive("projection", seed, stage_index) % _SEEDS
    return Projection(trunk.feature_dim, settings.hidden, settings.dim, seed).with_weights()


def projection_of_clustering(model, trunk, stage) -> Projection | None:
    """The projection whose output a kept clustering has clustered; None without one.

    Args:
        model: clustering.cluster_model.ClusterModel.
        trunk: its trunk, as of `checkpoint.load_trunk_of_clustering`.
        stage: experiment.Stage of the clustering.
    """
    projection = new_projection(stage, trunk)
    if projection is not None:
        reading = tf.train.Checkpoint(projection=projection).read(os.path.join(model.path, NETWORK))
        reading.assert_existing_objects_matched().expect_partial()
    return projection
