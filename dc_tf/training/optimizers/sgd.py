"""SGD with momentum in one pass over memory, and LARS, which is SGD with a rate for each kernel.

    optimizer = LARS(learning_rate=4.8, decay_of=lambda variable: 1e-6)
    optimizer.build(variables)
    optimizer.apply_gradients(zip(gradients, variables))  # without weight decay

tf-models' `official.modeling.optimization.lars` is a legacy optimizer of Keras: it lacks `build`
and a learning rate that is a variable, which checkpoints and the reset of heads need.
"""

from collections.abc import Callable

import tensorflow as tf

from dc_tf import keras


class FusedSGD(keras.optimizers.SGD):
    """Keras' SGD; with momentum, weight and momentum are updated in one pass over memory."""

    def update_step(self, gradient, variable) -> None:
        if not self.momentum or isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable)
            return
        momentum = self.momentums[self._index_dict[self._var_key(variable)]]
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=momentum.handle,
            lr=tf.cast(self.learning_rate, variable.dtype),
            grad=gradient,
            momentum=tf.cast(self.momentum, variable.dtype),
            use_nesterov=self.nesterov,
        )

    def apply_product(self, left, right, variable, decay=0.0) -> None:
        """Takes the step of a kernel whose gradient is `left^T right`, some rows at a time.

        The gradient as a whole, and with weight decay the decayed one, would take as much memory as
        the kernel each. `iterations` does not change; momentum must not be zero.

        Args:
            left: (b, n) float32.
            right: (b, m) float32.
            variable: (n, m) float32 kernel.
            decay: its weight decay.
        """
        rows, columns = variable.shape
        count = max(1, min(rows, _block_bytes() // (4 * columns)))
        rate, kept = tf.cast(self.learning_rate, tf.float32), tf.cast(self.momentum, tf.float32)
        left, right = tf.transpose(left), -rate * right
        momentum = self.momentums[self._index_dict[self._var_key(variable)]]

        def update(start):
            end = tf.minimum(start + count, rows)
            block = tf.range(start, end)
            old, weight = tf.gather(momentum, block), tf.gather(variable, block)
            step = tf.matmul(left[start:end], right)
            if decay:
                step -= (rate * decay) * weight
            new = kept * old + step
            moved = kept * new + step if self.nesterov else new
            _replace_rows(momentum, block, new)
            _replace_rows(variable, block, weight + moved)
            return (end,)

        tf.while_loop(lambda start: start < rows, update, [0], parallel_iterations=1)
        # After an update of rows TensorFlow would copy the variable whenever it is read.
        for changed in (variable, momentum):
            tf.raw_ops.DisableCopyOnRead(resource=changed.handle)


def _replace_rows(variable, rows, values):
    tf.raw_ops.ResourceScatterUpdate(resource=variable.handle, indices=rows, updates=values)


def _block_bytes() -> int:
    """Size of a block of a kernel: it stays in a CPU's cache; a GPU gets few large operations."""
    return 64 << 20 if tf.config.list_physical_devices("GPU") else 1 << 20


class LARS(FusedSGD):
    """Layer-wise adaptive rate scaling of kernels; norms and biases are trained by SGD.

    A kernel w with gradient g and weight decay b has the learning rate times
    `trust_coefficient` * |w| / (|g| + b |w|).

    Args:
        learning_rate: of the schedule.
        momentum, nesterov: as of SGD.
        trust_coefficient: eta.
        decay_of: function from a variable to its weight decay, which this optimizer adds to the
            gradient itself, since it needs the norms of both.

    Reference: You et al. 2017, algorithm 1.
    """

    def __init__(
        self,
        learning_rate: float,
        momentum: float = 0.9,
        nesterov: bool = False,
        trust_coefficient: float = 0.001,
        *,
        decay_of: Callable[[tf.Variable], float],
    ):
        super().__init__(learning_rate, momentum=momentum, nesterov=nesterov, name="LARS")
        self._trust_coefficient = trust_coefficient
        self._decay_of = decay_of

    def update_step(self, gradient, variable) -> None:
        decay = self._decay_of(variable)
        step = gradient + decay * variable if decay else gradient
        if is_kernel(variable):
            step *= self._local_rate(gradient, variable, decay)
        super().update_step(step, variable)

    def _local_rate(self, gradient, variable, decay):
        """() float32; 1 where the weight, or all that would change it, is zero."""
        weight = tf.norm(variable)
        change = tf.norm(gradient) + decay * weight
        defined = tf.logical_and(weight > 0, change > 0)
        rate = tf.math.divide_no_nan(self._trust_coefficient * weight, change)
        return tf.where(defined, rate, tf.ones_like(rate))


def is_kernel(variable) -> bool:
    """Whether a weight is of a product, not a bias nor a scale or shift of a norm."""
    return variable.shape.rank > 1
