"""Dynamic loss scaling, so that small gradients do not underflow in float16.

    scale = LossScale()
    loss = scale.value * loss            # and the gradients over scale.value
    scale.update(all_finite)             # a step whose gradients overflow is skipped

Reference: Micikevicius et al. 2018, section 3.2; the constants are those of Keras.
"""

import tensorflow as tf

INITIAL = 2.0**15
GROWTH_STEPS = 2000
LEAST = 1.0


class LossScale(tf.Module):
    """A power of two: halved when gradients overflow, doubled after many steps without.

    Attributes:
        value: float32 scalar variable, at least LEAST.
    """

    def __init__(self):
        super().__init__()
        self.value = tf.Variable(INITIAL, trainable=False, name="loss_scale")
        self._good_steps = tf.Variable(0, trainable=False, dtype=tf.int64, name="good_steps")

    def update(self, finite) -> None:
        """Updates the scale after a step; `finite` is a bool scalar, equal on all workers."""
        good = tf.where(finite, self._good_steps + 1, 0)
        grow = good >= GROWTH_STEPS
        factor = tf.where(finite, tf.where(grow, 2.0, 1.0), 0.5)
        value = self.value * factor
        self.value.assign(tf.where(tf.math.is_finite(value), tf.maximum(value, LEAST), self.value))
        self._good_steps.assign(tf.where(grow, tf.zeros_like(good), good))


def all_finite(tensors) -> tf.Tensor:
    """Bool scalar: whether every number in a list of tensors is finite."""
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(t)) for t in tensors])
