"""The trained network: VGG-16 with batch norm on a fixed Sobel stage.

trunk = VGG16(width=1.0, resolution=224, fc=4096)
endpoints = trunk(images)      # {"conv1": ..., "conv13": ..., "fc6": ..., "fc7": ...}
"""

import math

import tensorflow as tf

from dc_tf import keras
from dc_tf.nn.batch_norm import BatchNorm
from dc_tf.nn.conv import Conv2D, normalized_conv
from dc_tf.nn.dense import Dense
from dc_tf.nn.sobel import Normalize, Padding, Sobel
from dc_tf.nn.trunk import Conv, Counts, Trunk, float32, scaled, seeds_of

# Configuration "D" (Simonyan and Zisserman 2015): channels of the 13 convolutions by block.
# Each block ends in a 2x2 max-pool.
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
CONV_LAYERS = tuple(f"conv{i + 1}" for i in range(sum(map(len, BLOCKS))))
LAYERS = (*CONV_LAYERS, "fc6", "fc7")
DROPOUT = 0.5
# Sobel pads grey by 2 and conv1 pads Sobel's maps by 1. Sobel's maps are zero outside the padding
# of 2, so with both in one convolution a single padding of 3 is equivalent.
FOLDED_PADDING = 3


def channels(width: float) -> list[list[int]]:
    """Channels of each convolution by block, for a network `width` times as wide."""
    return [[scaled(c, width) for c in block] for block in BLOCKS]


def final_map_size(resolution: int) -> int:
    """Side of the map that enters fc6: the input grows by 2, then halves, rounding down."""
    return (resolution + 2) // 2 ** len(BLOCKS)


class VGG16(Trunk):
    """Maps (b, r, r, 3) float32 RGB in [0, 1] to a dict of all layers' features, float32.

    `conv1`..`conv13` are maps after ReLU and before pooling; `fc6` is after ReLU; `fc7` is before
    ReLU and is the vector that is clustered. Heads take ReLU(fc7).

    Args:
        width: multiplies every channel count of the convolutions.
        resolution: side r of the square input, in pixels.
        fc: units of fc6 and fc7.
        sobel: whether the input stage computes image gradients; otherwise normalised RGB.
        folded: whether conv1 is a trainable 5x5 convolution on RGB instead of Sobel and a 3x3 one.
        compute_dtype: "float32", or "bfloat16" or "float16" for products, with float32 weights.
        seed: of the initial weights.

    Reference: Caron et al. 2019, section 4; docs/reference.md, section 2.
    """

    kind = "vgg16"
    title = "VGG-16 with batch norm"
    setting_names = ("width", "resolution", "fc", "sobel")
    layer_names = LAYERS
    map_names = CONV_LAYERS
    feature_layer = "fc7"
    dense_layers = ("fc6", "fc7")
    torch_model = "vgg16_bn"
    copies_layer = "conv9"  # benchmarks/results/duplicates.md

    def __init__(
        self,
        width=1.0,
        resolution=224,
        fc=4096,
        sobel=True,
        folded=False,
        compute_dtype="float32",
        seed=0,
    ):
        settings = dict(width=width, resolution=resolution, fc=fc, sobel=sobel)
        super().__init__(settings, folded, compute_dtype)
        self.feature_dim = self.dropout_dim = fc
        policy = self.policy
        seeds = seeds_of(seed)
        self.normalize = Normalize(dtype="float32")
        self.stem = _stem(sobel, folded)
        self.blocks = [
            [ConvBlock(c, policy, next(seeds)) for c in block] for block in channels(width)
        ]
        if folded:
            conv1 = self.blocks[0][0]
            conv1.conv = keras.layers.Conv2D(
                conv1.conv.filters, 5, padding="valid", dtype=conv1.conv.dtype_policy
            )
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
        return float32(endpoints)

    def convolve(self, images, training=False) -> tuple[dict, tf.Tensor]:
        """Runs the convolutions alone, at the network's resolution.

        Returns:
            {"conv1": ... "conv13"}, maps after ReLU; and the input of fc6, (b, d), the last map
            pooled and flattened. Both in `compute_dtype`.
        """
        endpoints = self.maps(images, training)
        x = tf.nn.max_pool2d(endpoints[CONV_LAYERS[-1]], 2, 2, "VALID")
        return endpoints, tf.reshape(x, [-1, math.prod(x.shape[1:])])

    @property
    def stride(self) -> int:
        return 2 ** (len(BLOCKS) - 1)

    def normalized_maps(self, x, training) -> dict:
        """Those of conv13 have (h + 2) // 16 x (w + 2) // 16 pixels."""
        endpoints = {}
        x = self.stem(x)
        names = iter(CONV_LAYERS)
        for block in self.blocks:
            if endpoints:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            for conv in block:
                x = endpoints[next(names)] = conv(x, training=training)
        return endpoints

    def parts(self) -> dict:
        convs = dict(zip(CONV_LAYERS, sum(self.blocks, []), strict=True))
        return convs | {"fc6": self.fc6, "fc7": self.fc7}

    @classmethod
    def counts(cls, width, resolution, fc, sobel) -> Counts:
        convs, kept = [], 0
        below, side = 2 if sobel else 3, resolution + 2
        for block in channels(width):
            for c in block:
                convs.append(Conv(3, below, c, side, bias=True))
                below = c
            kept += sum(2 * side * side * c for c in block)
            side //= 2
            kept += side * side * below
        return Counts(tuple(convs), ((side * side * below, fc), (fc, fc)), kept + 3 * fc)

    def plain(self, x, build) -> tf.Tensor:
        """Layers named as in `keras.applications.VGG16`."""
        if not self.settings["sobel"] or self.folded:
            x = build.pad(x, FOLDED_PADDING if self.folded else 1, "padding")
        names = iter(CONV_LAYERS)
        for b, block in enumerate(self.blocks, 1):
            for c in range(1, len(block) + 1):
                name = f"block{b}_conv{c}"
                x = build.relu(build.conv(x, next(names), name, f"{name}_bn"), f"{name}_relu")
            x = build.max_pool(x, 2, 2, f"block{b}_pool")
        x = build.dense(build.flatten(x, "flatten"), "fc6", "fc1", "relu")
        return build.dense(build.dropout(x, DROPOUT, "fc1_dropout"), "fc7", "fc2")

    @classmethod
    def torch_parts(cls) -> dict:
        """Keys of the DeeperCluster program."""
        keys, place, names = {}, 0, iter(CONV_LAYERS)
        for block in BLOCKS:
            for _ in block:
                keys[next(names)] = (f"features.{place}", f"features.{place + 1}")
                place += 3  # convolution, batch norm, ReLU
            place += 1  # max-pool
        return keys | {"fc6": ("classifier.0", None), "fc7": ("classifier.3", None)}


class ConvBlock(keras.layers.Layer):
    """3x3 convolution with bias, batch norm, ReLU."""

    def __init__(self, filters, policy, seed):
        super().__init__(dtype="float32", autocast=False)  # as `normalized_conv` needs it
        self.conv = Conv2D(
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
        return tf.nn.relu(normalized_conv(self.conv, self.norm, x, training))


def _linear(units, fan_in, policy, seed, name):
    bound = 1 / math.sqrt(fan_in)
    return Dense(
        units,
        name=name,
        dtype=policy,
        kernel_initializer=keras.initializers.RandomUniform(-bound, bound, seed=seed),
        bias_initializer=keras.initializers.RandomUniform(-bound, bound, seed=seed + 500),
    )


def _stem(sobel, folded):
    """The input stage: maps of two more pixels than the image, or with `folded` of six more."""
    if folded:
        return Padding(FOLDED_PADDING, dtype="float32")
    return Sobel(dtype="float32") if sobel else Padding(1, dtype="float32")


def _dropout(x, mask):
    if mask is None:
        return tf.nn.dropout(x, DROPOUT)
    return x * tf.cast(mask, x.dtype)


def dropout_mask(shape, seed) -> tf.Tensor:
    """`shape` float32 of 0 and 1 / (1 - DROPOUT), from a (2,) integer seed alone."""
    kept = tf.random.stateless_uniform(shape, seed) >= DROPOUT
    return tf.cast(kept, tf.float32) / (1 - DROPOUT)
