"""A network with a new classifier on top, and the training step of all its layers.

    fine_tuner = FineTuner(trunk, classes=1000, protocol, world, seed=0)
    fine_tuner.set_rate(0.01)
    sums = fine_tuner.step(images, labels, step)       # over the batches of all workers

Every worker has its own copy of all weights, starts from the same values and applies the same
summed gradient; batch norm uses the statistics of the images of all workers. The result therefore
does not depend on the number of workers, up to rounding.
"""

import numpy as np
import tensorflow as tf

from dc_tf import experiment
from dc_tf.distributed.blocks import row_block
from dc_tf.distributed.collectives import all_sum_packed
from dc_tf.nn.heads import LinearHead
from dc_tf.nn.losses import cross_entropy
from dc_tf.seeds import derive
from dc_tf.training.optimizers.by_name import decayed, make_optimizer

SUMS = ("images", "loss", "hits")
_DROPPED = 2  # layers: fc6 and fc7 of VGG-16


class FineTuner(tf.Module):
    """The trained weights and their optimizer.

    Attributes:
        trunk: Trunk, of which all layers are trained.
        head: LinearHead on the ReLU of its feature.
        optimizer: Keras SGD over all trainable weights.
    """

    def __init__(self, trunk, classes, protocol, world, seed):
        """Initialises fully connected layers and the classifier at random.

        Args:
            trunk: built trunk owned by this process; training starts from its convolutions.
            classes: number of classes.
            protocol: task.Protocol.
            world: Communicator of the workers that train together.
            seed: seed of the new weights and of dropout.
        """
        super().__init__(name="fine_tuner")
        self.trunk = trunk
        self.head = LinearHead(trunk.feature_dim, classes)
        self._reset(protocol.init_deviation, protocol.init_bias, seed)
        settings = experiment.Optimizer(
            learning_rate=protocol.learning_rate,
            momentum=protocol.momentum,
            weight_decay=protocol.weight_decay,
        )
        self.optimizer = make_optimizer(settings)
        self.optimizer.build(self.weights)
        self._settings = settings
        self._dropout = protocol.dropout
        self._batch_size = protocol.batch_size
        self._seeds = [derive("fine-tuning dropout", seed, i) for i in range(_DROPPED)]
        self._world = world
        trunk.share_statistics(world)

    @property
    def weights(self) -> list[tf.Variable]:
        """All trained variables."""
        return [*self.trunk.trainable_variables, self.head.kernel, self.head.bias]

    def set_rate(self, rate: float) -> None:
        """Changes the learning rate.

        Keras accumulates steps (rate * gradient) in the momentum, PyTorch accumulates gradients.
        Scaling the momentum by the change of the rate makes both equal: the step size changes by
        the full factor at once.
        """
        before = float(self.optimizer.learning_rate)
        if rate == np.float32(before):
            return
        for momentum in self.optimizer.momentums if self.optimizer.momentum else ():
            momentum.assign(momentum * (rate / before))
        self.optimizer.learning_rate.assign(rate)

    @tf.function(autograph=False)
    def step(self, images, labels, step) -> tf.Tensor:
        """Runs one SGD step on the global batch.

        Args:
            images: (b, r, r, 3) float32 in [0, 1], this worker's part of the batch.
            labels: (b,) int32.
            step: int32 scalar, number of steps taken; with the seed it determines dropout.

        Returns:
            (len(SUMS),) float32, sums over the global batch before the update.
        """
        masks = self._masks(step)
        with tf.GradientTape() as tape:
            logits = self._logits(images, masks)
            losses = cross_entropy(logits, labels)
            loss = tf.reduce_sum(losses) / self._batch_size
        gradients = tape.gradient(loss, self.weights)
        hits = tf.cast(tf.equal(tf.argmax(logits, -1, tf.int32), labels), tf.float32)
        sums = tf.reduce_sum(tf.stack([tf.ones_like(losses), losses, hits]), 1)
        *gradients, sums = all_sum_packed([*gradients, sums], self._world)
        gradients = decayed(gradients, self.weights, self._settings)
        self.optimizer.apply_gradients(zip(gradients, self.weights, strict=True))
        return sums

    @tf.function(reduce_retracing=True, autograph=False)
    def logits(self, images) -> tf.Tensor:
        """(b, classes) float32 in inference mode."""
        return self.head(self._features(images, training=False))

    @tf.function(autograph=False)
    def is_finite(self) -> tf.Tensor:
        """() bool, whether all weights and running statistics are finite."""
        weights = [*self.trunk.weights, self.head.kernel, self.head.bias]
        return tf.reduce_all([tf.reduce_all(tf.math.is_finite(w)) for w in weights])

    def _logits(self, images, masks):
        """In training mode, with dropout if the trunk has any."""
        if not masks:
            return self.head(self._features(images, training=True))
        features = self._features(images, training=True, dropout_mask=masks[0])
        return self.head(features * masks[1])

    def _features(self, images, **mode):
        return tf.nn.relu(self.trunk(images, **mode)[self.trunk.feature_layer])

    def _reset(self, deviation, bias, seed):
        random = np.random.default_rng(derive("fine-tuning", seed))
        parts = self.trunk.parts()
        for layer in (*(parts[name] for name in self.trunk.dense_layers), self.head):
            shape = layer.kernel.shape
            layer.kernel.assign(deviation * random.standard_normal(shape, np.float32))
            layer.bias.assign(tf.fill(layer.bias.shape, bias))

    def _masks(self, step):
        """For fc6 and fc7, this worker's rows of the global batch's dropout mask; else nothing.

        The mask of the global batch does not depend on the number of workers.
        """
        if not self.trunk.dropout_dim:
            return []
        shape = [self._batch_size, self.trunk.dropout_dim]
        own = row_block(self._batch_size, self._world.rank, self._world.size)
        masks = []
        for seed in self._seeds:
            uniform = tf.random.stateless_uniform(shape, tf.stack([step, seed]))
            kept = tf.cast(uniform[own.start : own.stop] >= self._dropout, tf.float32)
            masks.append(kept / (1 - self._dropout))
        return masks
