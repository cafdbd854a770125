"""Batch normalisation whose statistics may span a group of workers.

layer = BatchNorm()                        # statistics of this worker's batch
layer = BatchNorm(all_sum=world.all_sum)   # statistics over the batches of all workers
"""

import tensorflow as tf

from dc_tf import keras

EPSILON = 1e-5
# Weight of the old value in the running statistics per step (PyTorch's momentum of 0.1).
RUNNING_MOMENTUM = 0.9


class BatchNorm(keras.layers.Layer):
    """Normalises channels of (b, h, w, c) over (b, h, w), then scales and shifts.

    Keras' synchronised layer is not fused, exchanges the mean and the mean square separately, and
    keeps a biased running variance, while its fused layer keeps an unbiased one; so results would
    depend on the number of workers. This layer always keeps the unbiased variance (n - 1, as in
    PyTorch), exchanges one vector per pass, and has an explicit gradient.

    Attributes:
        all_sum: function that sums a tensor over the workers that share batch statistics; None
            for statistics of this worker alone.
    """

    def __init__(self, all_sum=None, **kwargs):
        super().__init__(**kwargs)
        self.all_sum = all_sum

    def build(self, input_shape) -> None:
        def weight(name, initializer, **kwargs):
            return self.add_weight(
                name=name,
                shape=input_shape[-1:],
                dtype=tf.float32,
                initializer=initializer,
                experimental_autocast=False,
                **kwargs,
            )

        # Every worker computes the same statistics, so reading or saving them exchanges nothing.
        running = dict(
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.gamma = weight("gamma", "ones")
        self.beta = weight("beta", "zeros")
        self.moving_mean = weight("moving_mean", "zeros", **running)
        self.moving_variance = weight("moving_variance", "ones", **running)
        super().build(input_shape)

    def call(self, x, training=False) -> tf.Tensor:
        if not training:
            return self._normalize_by_running(x)
        if self.all_sum is None:
            y, mean, variance = _fused(x, self.gamma, self.beta)
        else:
            y, mean, variance = _synchronized(x, self.gamma, self.beta, self.all_sum)
        self._track(self.moving_mean, mean)
        self._track(self.moving_variance, variance)
        return y

    def scale_and_shift(self) -> tuple[tf.Tensor, tf.Tensor]:
        """(c,) float32 each: in inference the output is x * scale + shift."""
        scale = self.gamma * tf.math.rsqrt(self.moving_variance + EPSILON)
        return scale, self.beta - self.moving_mean * scale

    def _normalize_by_running(self, x):
        y, *_ = tf.compat.v1.nn.fused_batch_norm(
            x,
            self.gamma,
            self.beta,
            mean=self.moving_mean,
            variance=self.moving_variance,
            epsilon=EPSILON,
            is_training=False,
        )
        return y

    def _track(self, running, batch):
        batch = tf.stop_gradient(batch)
        running.assign(RUNNING_MOMENTUM * running + (1 - RUNNING_MOMENTUM) * batch)


def _fused(x, gamma, beta):
    """(normalised, mean, unbiased variance) of one worker's batch."""
    return tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, epsilon=EPSILON, is_training=True)


def _synchronized(x, gamma, beta, all_sum):
    """(normalised, mean, unbiased variance) over the batches of all workers."""

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        wide = tf.cast(x, tf.float32)
        count, total, square = _split_sums(
            all_sum(_pack_sums(wide, tf.square(wide), count=tf.size(x) / x.shape[-1]))
        )
        mean = total / count
        variance = tf.maximum(square / count - tf.square(mean), 0.0)
        inverse = tf.math.rsqrt(variance + EPSILON)
        y = (wide - mean) * (inverse * gamma) + beta
        unbiased = variance * (count / tf.maximum(count - 1.0, 1.0))

        def gradient(dy, *_):
            dy = tf.cast(dy, tf.float32)
            normalized = (wide - mean) * inverse
            packed = _pack_sums(dy, dy * normalized, count=0.0)
            _, local_shift, local_scale = _split_sums(packed)
            _, shift, scale = _split_sums(all_sum(packed))
            dx = (dy - shift / count - normalized * (scale / count)) * (inverse * gamma)
            # The training step sums weight gradients over the workers, so these stay local.
            return tf.cast(dx, x.dtype), local_scale, local_shift

        return (tf.cast(y, x.dtype), mean, unbiased), gradient

    return normalize(x, tf.convert_to_tensor(gamma), tf.convert_to_tensor(beta))


def _pack_sums(a, b, count):
    """One (1 + 2c,) vector: the count, then the sums of `a` and `b` over batch and space."""
    sums = [tf.reduce_sum(t, list(range(t.shape.rank - 1))) for t in (a, b)]
    return tf.concat([tf.reshape(tf.cast(count, tf.float32), [1]), *sums], 0)


def _split_sums(packed):
    channels = (packed.shape[0] - 1) // 2
    return packed[0], packed[1 : 1 + channels], packed[1 + channels :]
