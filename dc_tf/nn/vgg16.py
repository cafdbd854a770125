"""The trained network: VGG-16 with batch norm on a fixed Sobel stage.

trunk = VGG16(width=1.0, resolution=224, fc=4096)
endpoints = trunk(images)      # {"conv1": ..., "conv13": ..., "fc6": ..., "fc7": ...}
"""

import itertools
import math

import tensorflow as tf

from dc_tf import keras
from dc_tf.nn.batch_norm import BatchNorm
from dc_tf.nn.sobel import Normalize, RgbPadding, Sobel

# Configuration "D" (Simonyan and Zisserman 2015): channels of the 13 convolutions by block.
# Each block ends in a 2x2 max-pool.
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
CONV_LAYERS = tuple(f"conv{i + 1}" for i in range(sum(map(len, BLOCKS))))
LAYERS = (*CONV_LAYERS, "fc6", "fc7")
DROPOUT = 0.5


def channels(width: float) -> list[list[int]]:
    """Channels of each convolution by block, for a network `width` times as wide."""
    return [[max(1, round(c * width)) for c in block] for block in BLOCKS]


def final_map_size(resolution: int) -> int:
    """Side of the map that enters fc6: the input grows by 2, then halves, rounding down."""
    return (resolution + 2) // 2 ** len(BLOCKS)


class VGG16(keras.Model):
    """Maps (b, r, r, 3) float32 RGB in [0, 1] to a dict of all layers' features, float32.

    `conv1`..`conv13` are maps after ReLU and before pooling; `fc6` is after ReLU; `fc7` is before
    ReLU and is the vector that is clustered. Heads take ReLU(fc7).

    Attributes:
        settings: the arguments that determine the shapes of the weights.
        feature_layer: name of the layer that is clustered.
        feature_dim: length of its vectors.
        dropout_dim: length of the vectors that training drops values of; 0 without dropout.

    Args:
        width: multiplies every channel count of the convolutions.
        resolution: side r of the square input, in pixels.
        fc: units of fc6 and fc7.
        sobel: whether the input stage computes image gradients; otherwise normalised RGB.
        compute_dtype: "float32", or "bfloat16" or "float16" for products, with float32 weights.
        seed: of the initial weights.

    Reference: Caron et al. 2019, section 4; docs/reference.md, section 2.
    """

    feature_layer = "fc7"

    def __init__(
        self,
        width=1.0,
        resolution=224,
        fc=4096,
        sobel=True,
        compute_dtype="float32",
        seed=0,
    ):
        super().__init__(name="vgg16")
        self.feature_dim = self.dropout_dim = fc
        self.settings = dict(width=width, resolution=resolution, fc=fc, sobel=sobel)
        policy = "float32" if compute_dtype == "float32" else f"mixed_{compute_dtype}"
        seeds = iter(range(seed * 1000, seed * 1000 + 1000))
        self.normalize = Normalize(dtype="float32")
        self.stem = (Sobel if sobel else RgbPadding)(dtype="float32")
        self.blocks = [
            [ConvBlock(c, policy, next(seeds)) for c in block] for block in channels(width)
        ]
        side = final_map_size(resolution)
        fan_in = side * side * channels(width)[-1][-1]
        self.fc6 = _linear(fc, fan_in, policy, next(seeds), "fc6")
        self.fc7 = _linear(fc, fc, policy, next(seeds), "fc7")

    def call(self, images, training=False, dropout_mask=None) -> dict:
        """Features of every layer.

        Args:
            images: (b, r, r, 3) float32 in [0, 1].
            training: whether to use batch statistics and dropout instead of running statistics.
            dropout_mask: (b, fc) factors of fc6 in training; by default random 0 and 2.
        """
        endpoints, x = self.convolve(images, training)
        x = endpoints["fc6"] = tf.nn.relu(self.fc6(x))
        if training:
            x = _dropout(x, dropout_mask)
        endpoints["fc7"] = self.fc7(x)
        return _float32(endpoints)

    def convolve(self, images, training=False) -> tuple[dict, tf.Tensor]:
        """Runs the convolutions alone, at the network's resolution.

        Returns:
            {"conv1": ... "conv13"}, maps after ReLU; and the input of fc6, (b, d), the last map
            pooled and flattened. Both in `compute_dtype`.
        """
        endpoints = self._convolve(images, training)
        x = tf.nn.max_pool2d(endpoints[CONV_LAYERS[-1]], 2, 2, "VALID")
        return endpoints, tf.reshape(x, [-1, math.prod(x.shape[1:])])

    def convolutions(self, images) -> dict:
        """`conv1`..`conv13` of images of any size, (b, h, w, 3), in inference mode.

        Maps of conv13 have (h + 2) // 16 x (w + 2) // 16 pixels. In a `tf.function`, unused maps
        are not computed.
        """
        return _float32(self._convolve(images, training=False))

    def _convolve(self, images, training):
        endpoints = {}
        x = self.stem(self.normalize(images))
        names = iter(CONV_LAYERS)
        for block in self.blocks:
            if endpoints:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            for conv in block:
                x = endpoints[next(names)] = conv(x, training=training)
        return endpoints

    def share_statistics(self, comm) -> None:
        """Shares batch statistics in training over all workers of `comm`.

        By default they are those of this worker's images. Traced functions do not change.
        """
        for conv in itertools.chain(*self.blocks):
            conv.norm.all_sum = comm.all_sum if comm.size > 1 else None

    def built_at_resolution(self) -> "VGG16":
        """Creates all weights and returns self."""
        resolution = self.settings["resolution"]
        self(tf.zeros([1, resolution, resolution, 3]))
        return self


class ConvBlock(keras.layers.Layer):
    """3x3 convolution with bias, batch norm, ReLU."""

    def __init__(self, filters, policy, seed):
        super().__init__(dtype=policy)
        self.conv = keras.layers.Conv2D(
            filters,
            3,
            padding="same",
            dtype=policy,
            # He et al. 2015, by fan-out.
            kernel_initializer=keras.initializers.RandomNormal(
                stddev=math.sqrt(2 / (3 * 3 * filters)), seed=seed
            ),
        )
        self.norm = BatchNorm(dtype=policy)

    def call(self, x, training=False) -> tf.Tensor:
        return tf.nn.relu(self.norm(self.conv(x), training=training))


def _linear(units, fan_in, policy, seed, name):
    bound = 1 / math.sqrt(fan_in)
    return keras.layers.Dense(
        units,
        name=name,
        dtype=policy,
        kernel_initializer=keras.initializers.RandomUniform(-bound, bound, seed=seed),
        bias_initializer=keras.initializers.RandomUniform(-bound, bound, seed=seed + 500),
    )


def _float32(endpoints):
    return {name: tf.cast(t, tf.float32) for name, t in endpoints.items()}


def _dropout(x, mask):
    if mask is None:
        return tf.nn.dropout(x, DROPOUT)
    return x * tf.cast(mask, x.dtype)


def dropout_mask(shape, seed) -> tf.Tensor:
    """`shape` float32 of 0 and 1 / (1 - DROPOUT), from a (2,) integer seed alone."""
    kept = tf.random.stateless_uniform(shape, seed) >= DROPOUT
    return tf.cast(kept, tf.float32) / (1 - DROPOUT)
