"""Linear classifiers on many layers, trained together on the same batches.

Each has its own weights, learning rate and seed and is independent of the others, so training them
together gives the same weights as training each separately.

    probes = Probes(dims={"conv7": 8192}, classes=1000, rates={"conv7": 0.02})
    losses = probes.step({"conv7": vectors}, labels)

Labels are one class per image, or one row of class indicators per image (see `step`).
"""

import zlib

import tensorflow as tf

from dc_tf.evaluation.losses import multi_label_loss


class Probes(tf.Module):
    """Softmax or logistic regression per layer by SGD with momentum and coupled weight decay.

    The learning rate of step t is rate / sqrt(1 + rate * weight_decay * t).

    Reference: docs/reference.md, section 5.
    """

    def __init__(self, dims, classes, rates, momentum=0.9, weight_decay=1e-5, seed=0):
        """Draws initial weights from N(0, 0.01); biases are zero.

        Args:
            dims: {layer: d}.
            classes: number of classes.
            rates: {layer: initial learning rate}.
            seed: seed of the weights, combined with the layer's name.
        """
        super().__init__(name="probes")
        self._rates = dict(rates)
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._time = tf.Variable(0.0, trainable=False)
        self._kernels, self._biases, self._velocities = {}, {}, {}
        self._shifts, self._scales = {}, {}
        for layer, dim in dims.items():
            own_seed = [seed, zlib.crc32(layer.encode()) & 0x7FFFFFFF]
            kernel = tf.random.stateless_normal([dim, classes], own_seed, stddev=0.01)
            self._kernels[layer] = tf.Variable(kernel)
            self._biases[layer] = tf.Variable(tf.zeros([classes]))
            self._velocities[layer] = [
                tf.Variable(tf.zeros_like(v), trainable=False)
                for v in (self._kernels[layer], self._biases[layer])
            ]
            self._shifts[layer] = tf.Variable(tf.zeros([dim]), trainable=False)
            self._scales[layer] = tf.Variable(tf.ones([dim]), trainable=False)

    def standardize(self, layer, mean, deviation) -> None:
        """Sets the layer's input to (x - mean) / (deviation * sqrt(d)), of length about 1.

        Args:
            layer: name of the layer.
            mean, deviation: (d,) float32; dimensions with a deviation of 0 become 0.
        """
        dim = tf.cast(tf.size(mean), tf.float32)
        self._shifts[layer].assign(mean)
        self._scales[layer].assign(
            tf.math.divide_no_nan(1.0, tf.convert_to_tensor(deviation, tf.float32)) / tf.sqrt(dim)
        )

    @tf.function(reduce_retracing=True, autograph=False)
    def step(self, features, labels) -> dict:
        """Updates all classifiers by one step.

        Args:
            features: {layer: (b, d) float32 or float16}.
            labels: (b,) int32 for softmax; or (b, classes) integers for one logistic regression
                per class: 1 present, 0 absent; other values are ignored.

        Returns:
            {layer: scalar loss before the update in nats: sum over classes, mean over the batch}.
        """
        losses = {layer: self._update(layer, x, labels) for layer, x in features.items()}
        self._time.assign_add(1.0)
        return losses

    @tf.function(reduce_retracing=True, autograph=False)
    def logits(self, features) -> dict:
        """{layer: (b, classes) float32} of {layer: (b, d)} features."""
        return {layer: self._forward(layer, self._input(layer, x)) for layer, x in features.items()}

    def _input(self, layer, x):
        return (tf.cast(x, tf.float32) - self._shifts[layer]) * self._scales[layer]

    def _forward(self, layer, x):
        return tf.matmul(x, self._kernels[layer]) + self._biases[layer]

    def _update(self, layer, x, labels):
        """One SGD step with the closed-form gradient; returns the mean loss."""
        x = self._input(layer, x)
        loss, error = _loss_and_error(self._forward(layer, x), labels)
        error /= tf.cast(tf.shape(x)[0], tf.float32)
        gradients = tf.matmul(x, error, transpose_a=True), tf.reduce_sum(error, 0)
        rate = self._rates[layer]
        rate *= tf.math.rsqrt(1 + rate * self._weight_decay * self._time)
        weights = self._kernels[layer], self._biases[layer]
        velocities = self._velocities[layer]
        for weight, gradient, velocity in zip(weights, gradients, velocities, strict=True):
            velocity.assign(self._momentum * velocity + gradient + self._weight_decay * weight)
            weight.assign_sub(rate * velocity)
        return tf.reduce_mean(loss)


def _loss_and_error(logits, labels):
    """(b,) loss of each image, and its (b, classes) gradient with respect to the logits."""
    if labels.shape.rank == 1:
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        return loss, tf.nn.softmax(logits) - tf.one_hot(labels, tf.shape(logits)[-1])
    targets = tf.cast(labels == 1, tf.float32)
    counted = tf.cast((labels == 0) | (labels == 1), tf.float32)
    return multi_label_loss(logits, labels), (tf.sigmoid(logits) - targets) * counted
