"""The projection of a stage: an MLP from the trunk's features to unit vectors.

projection = Projection(features=4096, hidden=2048, dim=128, seed=0).with_weights()
x = projection(tf.nn.relu(fc7), training=True)      # (b, 128), L2 norm 1
"""

import functools
import math
from collections.abc import Callable

import tensorflow as tf

from dc_tf import keras
from dc_tf.nn.batch_norm import BatchNorm
from dc_tf.nn.dense import Dense


class Projection(keras.Model):
    """(b, features) to (b, dim) float32 of L2 norm 1: linear, batch norm, ReLU, linear.

    It computes in float32, whatever the trunk does: its cost is small beside the trunk's.

    Args:
        features: length of its input, which is after ReLU.
        hidden: units of the hidden layer; 0 leaves one linear layer.
        dim: length of its output.
        seed: of the initial weights.

    Reference: Caron et al. 2020, section 4 and appendix A (SwAV, DeepCluster-v2).
    """

    def __init__(self, features: int, hidden: int, dim: int, seed: int = 0):
        super().__init__(name="projection")
        self._features = features
        self.hidden = self.norm = None
        if hidden:
            # Batch norm subtracts a bias again.
            self.hidden = _linear(hidden, features, seed, use_bias=False)
            self.norm = BatchNorm(dtype="float32")
        self.output_layer = _linear(dim, hidden or features, seed + 1)

    def call(self, x, training=False) -> tf.Tensor:
        if self.hidden is not None:
            # Batch norm takes maps.
            maps = self.hidden(x)[:, tf.newaxis, tf.newaxis, :]
            x = tf.nn.relu(tf.squeeze(self.norm(maps, training=training), [1, 2]))
        return tf.math.l2_normalize(self.output_layer(x), -1)

    def parts(self) -> dict:
        """{name: layer} of the linear layers, from the input to the output."""
        hidden = {} if self.hidden is None else {"hidden": self.hidden}
        return hidden | {"output": self.output_layer}

    def share_statistics(self, comm) -> None:
        """Shares batch statistics in training over all workers of `comm`."""
        if self.norm is not None:
            self.norm.all_sum = comm.all_sum if comm.size > 1 else None

    def with_weights(self) -> "Projection":
        """Creates all weights and returns self."""
        self(tf.zeros([1, self._features]))
        return self


@functools.lru_cache(maxsize=1)  # so the rounds of a stage trace it once
def clustered_features(trunk, projection: Projection | None = None) -> Callable:
    """The function from images to the vectors that are clustered, in inference mode.

    Returns:
        tf.function of (b, r, r, 3) float32 images: (b, d) float32 outputs of the projection, or
        without one of the trunk's feature layer.
    """

    @tf.function(autograph=False)
    def features(images):
        vectors = trunk(images, training=False)[trunk.feature_layer]
        return vectors if projection is None else projection(tf.nn.relu(vectors), training=False)

    return features


def _linear(units, fan_in, seed, use_bias=True):
    bound = 1 / math.sqrt(fan_in)
    uniform = keras.initializers.RandomUniform
    return Dense(
        units,
        dtype="float32",
        use_bias=use_bias,
        kernel_initializer=uniform(-bound, bound, seed=2 * seed),
        bias_initializer=uniform(-bound, bound, seed=2 * seed + 1),
    )
