"""Multi-label fine-tuning of a trunk with newly initialised fully connected layers.

    network = MultiLabelNetwork(frozen.trunk, classes=20, tune="fc68")
    network.reset(seed=0)
    loss = network.step(images, labels, key=(0, step), rate=0.002, weight_decay=1e-5)
    scores = network.logits(images)

Each worker processes its rows of the batch and gradients are summed over all workers, so all have
the same weights, which equal those of a single process up to rounding.
"""

import numpy as np
import tensorflow as tf

from dc_tf.distributed.collectives import Solo, all_sum_packed
from dc_tf.evaluation.losses import multi_label_loss
from dc_tf.exporting.weights import flat_weights, named_weights, trainable_weights
from dc_tf.nn.heads import LinearHead
from dc_tf.nn.vgg16 import dropout_mask
from dc_tf.seeds import derive

TUNES = ("fc68", "all")
_BIAS = 0.1  # of new layers (docs/reference.md, section 5)


class MultiLabelNetwork(tf.Module):
    """Convolutions, fc6, ReLU, dropout, fc7, ReLU, fc8; batch norm uses running statistics.

    A trunk without fully connected layers has fc8 only, on the mean of its last map.

    The trunk is shared, not copied: `reset` and `step` change its weights, `restore` undoes that.

    Attributes:
        tuned: trained variables: those of fc6 to fc8, and with tune="all" those of the
            convolutions and of batch norm.
    """

    def __init__(
        self, trunk, classes, tune, momentum=0.9, clip_norm=10.0, deviation=0.01, world=None
    ):
        """Prepares.

        Args:
            trunk: built Trunk.
            classes: number of classes.
            tune: "fc68" trains only fc6, fc7 and fc8; "all" trains all weights.
            momentum: momentum of SGD.
            clip_norm: largest global norm of the gradient.
            deviation: standard deviation of the new weights.
            world: Communicator of the workers that train together; None for a single process.
        """
        super().__init__(name="multi_label")
        self._trunk = trunk
        self._frozen = tune == "fc68"
        self._momentum = momentum
        self._clip_norm = clip_norm
        self._deviation = deviation
        self._world = world or Solo()
        self._head = LinearHead(trunk.feature_dim, classes)
        weights = named_weights(trunk)
        self._initial = [v.numpy() for v in flat_weights(weights)]
        fresh = [weights.pop(name) for name in trunk.dense_layers]
        self._dense = [trunk.parts()[name] for name in trunk.dense_layers]
        self._fresh = [v for layer in fresh for v in layer.values()]
        self._fresh += [self._head.kernel, self._head.bias]
        self.tuned = [*([] if self._frozen else trainable_weights(weights)), *self._fresh]
        self._velocities = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self.tuned]

    def reset(self, seed: int) -> None:
        """Restores the convolutions, draws fc6 to fc8 from the seed, sets velocities to zero."""
        self.restore()
        random = np.random.default_rng(derive("voc07 fc", seed))
        for variable in self._fresh:
            if len(variable.shape) == 2:
                variable.assign(
                    self._deviation * random.standard_normal(variable.shape, np.float32)
                )
            else:
                variable.assign(tf.fill(variable.shape, _BIAS))
        for velocity in self._velocities:
            velocity.assign(tf.zeros_like(velocity))

    def restore(self) -> None:
        """Restores the trunk's initial weights."""
        variables = flat_weights(named_weights(self._trunk))
        for variable, value in zip(variables, self._initial, strict=True):
            variable.assign(value)

    @tf.function(autograph=False)
    def step(self, images, labels, first, batch_size, key, rate, weight_decay) -> tf.Tensor:
        """One step of SGD with momentum, gradient clipping and coupled weight decay.

        Args:
            images: (b, r, r, 3) float32 in [0, 1], this worker's rows of the batch.
            labels: (b, classes) int8: 1 present, 0 absent; other values are ignored.
            first: () int32, index of this worker's first row in the batch.
            batch_size: int, images per step over all workers.
            key: (2,) int32, seed of the dropout.
            rate: () float32 learning rate.
            weight_decay: () float32.

        Returns:
            () float32: cross-entropy in nats, summed over classes, mean over the batch.
        """
        mask = None
        if self._trunk.dropout_dim:
            mask = dropout_mask([batch_size, self._trunk.dropout_dim], key)
            mask = mask[first : first + tf.shape(images)[0]]
        features = self._features(images) if self._frozen else None
        with tf.GradientTape() as tape:
            if not self._frozen:
                features = self._features(images)
            loss = multi_label_loss(self._scores(features, mask), labels)
            loss = tf.reduce_sum(loss) / tf.cast(batch_size, tf.float32)
        gradients = tape.gradient(loss, self.tuned)
        loss, *gradients = all_sum_packed([loss, *gradients], self._world)
        gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm)
        updates = zip(self.tuned, gradients, self._velocities, strict=True)
        for variable, gradient, velocity in updates:
            velocity.assign(self._momentum * velocity + gradient + weight_decay * variable)
            variable.assign_sub(rate * velocity)
        return loss

    @tf.function(reduce_retracing=True, autograph=False)
    def logits(self, images) -> tf.Tensor:
        """(b, classes) float32 of (b, r, r, 3) images, without dropout."""
        return self._scores(self._features(images), None)

    def _features(self, images):
        return self._trunk.convolve(images, training=False)[1]

    def _scores(self, features, mask):
        x = features
        for i, layer in enumerate(self._dense):
            x = tf.nn.relu(layer(x))
            if i == 0 and mask is not None:
                x *= tf.cast(mask, x.dtype)
        return self._head(tf.cast(x, tf.float32))
