"""Gives batch norms that were never trained statistics of the images they are going to see.

    calibrate(learner, reader, experiment, stage_index=0, cluster=cluster, trunk=True)

A new batch norm has the running mean 0 and variance 1, whatever comes in. Features of a first
clustering are extracted with these: through the residual sums of a ResNet, or through the length 1
of a projection, all images then have nearly the same features (`docs/parts.md` has numbers). So
before the first clustering of a stage a few batches pass in training mode, without labels and
gradients, and their mean statistics are kept. DeepCluster-v2 gets the same by filling its bank in
training mode.

The images do not depend on the number of workers, nor do their statistics beyond rounding.
"""

import numpy as np
import tensorflow as tf

from dc_tf.data.input.pipeline import evaluation_batches
from dc_tf.data.storage.reader import data_errors
from dc_tf.nn.batch_norm import RUNNING_MOMENTUM, BatchNorm
from dc_tf.nn.trunks import TRUNKS
from dc_tf.seeds import derive

# Images that statistics are taken of, if the data set has as many; at least one batch.
IMAGES = 2048


def needs_calibration(stage, model) -> bool:
    """Whether batch norms of a stage that were never trained are calibrated.

    Not those of VGG-16 without a projection or a bank, the network of the paper: it extracts with
    what they begin with, and whitening restores the scale.

    Args:
        stage: experiment.Stage.
        model: experiment.Model.
    """
    papers = TRUNKS[model.trunk].features is None
    return stage.clustered and (not papers or bool(stage.projection.dim) or stage.has_bank)


def calibrate(learner, reader, experiment, stage_index, cluster, trunk) -> None:
    """Sets the running statistics of the projection, and of the trunk if that is new.

    Args:
        learner: Learner of the stage, before its first step.
        reader: RowReader or FallbackRows of all images.
        experiment: experiment.Experiment.
        stage_index: index of the stage.
        cluster: Cluster; all its workers make the call.
        trunk: whether the trunk was never trained.

    Raises:
        DataError: an image cannot be read.
    """
    parts = [learner.trunk] * trunk + [learner.projection] * (learner.projection is not None)
    statistics = [v for part in parts for v in _statistics(part)]
    if not statistics:
        return
    begun = [v.numpy() for v in statistics]
    batches = _batches(learner.plan, reader, experiment, stage_index, cluster.rank)
    observe = _observing(learner, cluster.strategy, trunk)
    steps = 0
    with data_errors():
        for batch in batches:
            observe(batch["image"])
            steps += 1
    # They are mixed with what they began with, which is of no image.
    left = RUNNING_MOMENTUM**steps
    with cluster.strategy.scope():
        for variable, begin in zip(statistics, begun, strict=True):
            variable.assign((variable.numpy() - left * begin) / (1 - left))
    learner.average_statistics()


def _statistics(part):
    """The running means and variances of a network."""
    norms = [layer for layer in part.submodules if isinstance(layer, BatchNorm)]
    return [v for norm in norms for v in (norm.moving_mean, norm.moving_variance)]


def _batches(plan, reader, experiment, stage_index, rank):
    """This worker's part of global batches of random images, as they are extracted."""
    rows, workers = reader.dataset.rows, plan.topology.workers
    own = min(plan.per_worker, rows // workers)
    steps = max(1, min(IMAGES, rows) // (own * workers))
    random = np.random.default_rng(derive("calibrate", experiment.seed, stage_index))
    drawn = random.choice(rows, (steps, workers, own), replace=False)
    resolution = experiment.model.resolution
    return evaluation_batches(
        reader,
        drawn[:, rank].ravel(),
        own,
        resolution,
        experiment.data.resize or round(resolution * 256 / 224),
        threads=experiment.threads or None,
    )


def _observing(learner, strategy, trained):
    """A function of images that updates the running statistics; the trunk's where `trained`."""
    trunk, projection = learner.trunk, learner.projection

    def forward(images):
        mask = tf.ones([tf.shape(images)[0], trunk.dropout_dim]) if trunk.dropout_dim else None
        arguments = {"dropout_mask": mask} if trained else {}
        vectors = trunk(images, training=trained, **arguments)[trunk.feature_layer]
        if projection is not None:
            vectors = projection(tf.nn.relu(vectors), training=True)
        return tf.reduce_sum(vectors)

    @tf.function(autograph=False)
    def observe(images):
        return strategy.run(forward, args=(images,))

    return observe
