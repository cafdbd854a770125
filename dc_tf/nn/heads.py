"""Linear classifiers on the trunk's features, as plain local variables.

A head belongs to the workers that serve it and is not mirrored by the strategy: each of them
initializes it with the same random numbers and applies the same summed gradient.

    head = LinearHead(features=4096, classes=80_000)
    head.reset(np.random.default_rng((seed, super_class)))
    logits = head(tf.nn.relu(fc7))
"""

import math

import numpy as np
import tensorflow as tf

INITIALIZERS = ("uniform", "normal")
_BLOCK_VALUES = 1 << 24  # 64 MiB


class LinearHead(tf.Module):
    """(b, features) to (b, classes) logits.

    Args:
        features: input dimension.
        classes: number of logits.
        initializer: "uniform" in +-1/sqrt(features) (DeeperCluster), or "normal" with standard
            deviation 0.01 and zero bias (DeepCluster).

    Attributes:
        tap: as of `dense.Dense`.
    """

    tap = None

    def __init__(self, features: int, classes: int, initializer="uniform", name=None):
        super().__init__(name=name)
        if initializer not in INITIALIZERS:
            raise ValueError(f"initializer is {initializer!r}; use one of {INITIALIZERS}.")
        self._initializer = initializer
        self.kernel = tf.Variable(tf.zeros([features, classes]), name="kernel")
        self.bias = tf.Variable(tf.zeros([classes]), name="bias")

    def __call__(self, features) -> tf.Tensor:
        outputs = tf.matmul(features, self.kernel) + self.bias
        return outputs if self.tap is None else self.tap(features, outputs)

    def reset(self, random: np.random.Generator) -> None:
        """Draws new weights from `random`, some rows at a time: a head may take gigabytes."""
        if self._initializer == "normal":
            _fill(self.kernel, lambda shape: 0.01 * random.standard_normal(shape, np.float32))
            self.bias.assign(tf.zeros_like(self.bias))
            return
        bound = 1 / math.sqrt(self.kernel.shape[0])
        for variable in (self.kernel, self.bias):
            _fill(variable, lambda shape: bound * (2 * random.random(shape, np.float32) - 1))


def _fill(variable, draw):
    """Assigns what `draw` gives for the shape of a block of rows, from the first to the last."""
    count, *rest = variable.shape
    rows = max(1, _BLOCK_VALUES // math.prod(rest))
    for start in range(0, count, rows):
        block = slice(start, min(start + rows, count))
        variable[block].assign(draw((block.stop - start, *rest)))
    # After an assignment of rows TensorFlow would copy the variable whenever it is read.
    tf.raw_ops.DisableCopyOnRead(resource=variable.handle)
