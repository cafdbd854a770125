"""Residual networks of 18 and 50 layers, for images of ImageNet's size and for small ones.

trunk = ResNet18(width=0.5, resolution=32, stem="small")
endpoints = trunk(images)      # {"conv1": ..., "block1_1": ..., "block4_2": ..., "pool": ...}

The strides of a bottleneck are in its 3x3 convolution, as in torchvision, whose weights fit
(`dc_tf.exporting.torch_weights`).

Reference: He et al. 2016, "Deep residual learning for image recognition", table 1.
"""

import math

import tensorflow as tf

from dc_tf import keras
from dc_tf.nn.batch_norm import BatchNorm
from dc_tf.nn.conv import Conv2D, normalized_conv
from dc_tf.nn.sobel import Normalize, Padding, Sobel
from dc_tf.nn.trunk import Conv, Counts, Trunk, scaled, seeds_of

STAGES = (64, 128, 256, 512)  # channels of the 3x3 convolutions; each but the first halves the map
# Side and stride of the first convolution. The one for small images has no max-pool behind it
# (Chen et al. 2020, SimCLR, appendix B.9).
_STEMS = {"imagenet": (7, 2), "small": (3, 1)}


class ResNet(Trunk):
    """Maps (b, r, r, 3) float32 RGB in [0, 1] to a dict of all layers' features, float32.

    `conv1` and `block1_1`..`block4_N` are maps after ReLU; `pool` is the mean of the last one over
    its pixels, the vector that is clustered.

    Args:
        width: multiplies the number of channels of every convolution.
        resolution: side r of the square input, in pixels.
        stem: "imagenet", a 7x7 convolution of stride 2 and a max-pool, or "small", a 3x3
            convolution.
        sobel: whether the input stage computes image gradients; otherwise normalised RGB.
        folded: whether conv1 includes Sobel.
        compute_dtype: "float32", or "bfloat16" or "float16" for products, with float32 weights.
        seed: of the initial weights.
        dilated: whether the last stage keeps the size of the maps, with convolutions on every other
            pixel. The last map then has an even number of rows and columns, of which every other
            one is that of the network without. The weights are the same.
    """

    setting_names = ("width", "resolution", "stem", "sobel")
    feature_layer = "pool"
    depths: tuple[int, ...]
    block: type

    def __init__(
        self,
        width=1.0,
        resolution=224,
        stem="imagenet",
        sobel=True,
        folded=False,
        compute_dtype="float32",
        seed=0,
        dilated=False,
    ):
        settings = dict(width=width, resolution=resolution, stem=stem, sobel=sobel)
        super().__init__(settings, folded, compute_dtype)
        self.dilated = dilated
        seeds = seeds_of(seed)
        self.normalize = Normalize(dtype="float32")
        self.sobel = Sobel(dtype="float32") if sobel and not folded else None
        kernel, stride = _STEMS[stem]
        self.padding = Padding(self.stem_padding, dtype="float32")
        self.conv1 = ConvNorm(
            scaled(STAGES[0], width),
            kernel + 2 * folded,
            stride,
            self.policy,
            next(seeds),
            padding="valid",
        )
        self.blocks = [
            [
                self.block(
                    *(channels, width, stride, shortcut, self.policy, seeds),
                    dilated=self._dilated_from(stage, number),
                )
                for number, (stride, shortcut) in enumerate(self._strides(stage, dilated))
            ]
            for stage, channels in enumerate(STAGES)
        ]
        self.feature_dim = scaled(self.block.expansion * STAGES[-1], width)

    @property
    def stem_padding(self) -> int:
        """Pixels that the first convolution's input is padded by on each side.

        Sobel's maps have one more pixel on each side than the image, and are zero beyond; so conv1
        has the same output pixels in any case, and includes Sobel exactly.
        """
        half = _STEMS[self.settings["stem"]][0] // 2
        if self.folded:
            return half + 1
        return half - 1 if self.settings["sobel"] else half

    @property
    def stride(self) -> int:
        first = _STEMS[self.settings["stem"]][1] * (2 if self.settings["stem"] == "imagenet" else 1)
        return first * 2 ** (len(STAGES) - 1 - self.dilated)

    @classmethod
    def _strides(cls, stage, dilated=False):
        """(stride, whether the shortcut is a convolution) of each block of a stage."""
        keeps_size = stage == 0 or (dilated and stage == len(STAGES) - 1)
        begins = (1 if keeps_size else 2, stage > 0 or cls.block.expansion > 1)
        return [begins, *[(1, False)] * (cls.depths[stage] - 1)]

    def _dilated_from(self, stage, number):
        """Index of the first convolution of a block that is behind the stride left out, or None."""
        if not self.dilated or stage < len(STAGES) - 1:
            return None
        return 0 if number else self.block.strided + 1

    def convolve(self, images, training=False) -> tuple[dict, tf.Tensor]:
        """The maps, and the mean of the last one, (b, d) float32."""
        endpoints = self.maps(images, training)
        last = tf.cast(endpoints[self.map_names[-1]], tf.float32)
        return endpoints, tf.reduce_mean(last, [1, 2])

    def normalized_maps(self, x, training) -> dict:
        x = self.padding(x if self.sobel is None else self.sobel(x))
        x = tf.nn.relu(self.conv1(x, training=training))
        endpoints = {"conv1": x}
        if self.settings["stem"] == "imagenet":
            # No value is below zero, so padding with zeros is padding with minus infinity.
            x = tf.nn.max_pool2d(_pad(x, 1), 3, 2, "VALID")
        names = iter(self.map_names[1:])
        for block in sum(self.blocks, []):
            x = endpoints[next(names)] = block(x, training=training)
        return endpoints

    def parts(self) -> dict:
        parts = {"conv1": self.conv1}
        for name, block in zip(self.map_names[1:], sum(self.blocks, []), strict=True):
            parts |= {f"{name}_{part}": conv for part, conv in block.parts().items()}
        return parts

    @classmethod
    def counts(cls, width, resolution, stem, sobel, dilated=False) -> Counts:
        kernel, stride = _STEMS[stem]
        side = -(-resolution // stride)
        inputs = scaled(STAGES[0], width)
        convs = [Conv(kernel, 2 if sobel else 3, inputs, side)]
        # Of a convolution its output and that of ReLU, of a shortcut its output.
        kept = 2 * side**2 * inputs
        if stem == "imagenet":
            side = -(-side // 2)
            kept += side**2 * inputs
        for stage, channels in enumerate(STAGES):
            for stride, shortcut in cls._strides(stage, dilated):
                block = cls.block.counts(inputs, channels, width, side, stride)
                kept += sum(2 * conv.side**2 * conv.outputs for conv in block)
                inputs, side = block[-1].outputs, block[-1].side
                if shortcut:
                    block.append(Conv(1, block[0].inputs, inputs, side))
                    kept += side**2 * inputs
                convs += block
        return Counts(tuple(convs), (), kept)

    def plain(self, x, build) -> tf.Tensor:
        """Layers named as in `keras.applications.ResNet50`."""
        x = build.pad(x, self.stem_padding, "conv1_pad")
        x = build.relu(build.conv(x, "conv1", "conv1_conv", "conv1_bn"), "conv1_relu")
        if self.settings["stem"] == "imagenet":
            x = build.max_pool(build.pad(x, 1, "pool1_pad"), 3, 2, "pool1_pool")
        for name, block in zip(self.map_names[1:], sum(self.blocks, []), strict=True):
            stage, number = name.removeprefix("block").split("_")
            x = block.plain(x, build, name, f"conv{int(stage) + 1}_block{number}")
        return build.mean(x, "avg_pool")

    @classmethod
    def torch_parts(cls) -> dict:
        """Keys of torchvision's resnet18 and resnet50."""
        keys = {"conv1": ("conv1", "bn1")}
        for stage, depth in enumerate(cls.depths, 1):
            for number, (_, shortcut) in zip(range(depth), cls._strides(stage - 1), strict=True):
                name, place = f"block{stage}_{number + 1}", f"layer{stage}.{number}."
                for i in range(1, cls.block.convolutions + 1):
                    keys[f"{name}_conv{i}"] = (f"{place}conv{i}", f"{place}bn{i}")
                if shortcut:
                    keys[f"{name}_shortcut"] = (f"{place}downsample.0", f"{place}downsample.1")
        return keys


class ConvNorm(keras.layers.Layer):
    """Convolution without bias, padded by half its kernel on each side, and batch norm.

    A 1x1 convolution with a stride takes every other pixel first: the gradient of oneDNN (in
    TensorFlow 2.20) writes past its memory where the stride is larger than the kernel.

    If `dilated`, the pixels of even and odd rows and columns are images of their own, since Eigen's
    kernels have no gradient of dilated convolutions. Rows and columns have to be even in number.
    """

    def __init__(self, filters, kernel, stride, policy, seed, padding=None, dilated=False):
        super().__init__(dtype="float32", autocast=False)  # as `normalized_conv` needs it
        self.every = stride if stride > kernel else 1
        stride //= self.every
        # "same" pads asymmetrically where a stride is 2.
        self.pad = 0 if padding or stride == 1 else kernel // 2
        self.dilated = dilated and kernel > 1
        self.conv = Conv2D(
            filters,
            kernel,
            stride,
            padding=padding or ("same" if stride == 1 else "valid"),
            use_bias=False,
            dtype=policy,
            # He et al. 2015, by fan-out.
            kernel_initializer=keras.initializers.RandomNormal(
                stddev=math.sqrt(2 / (kernel * kernel * filters)), seed=seed
            ),
        )
        self.norm = BatchNorm(dtype=policy)

    def call(self, x, training=False) -> tf.Tensor:
        x = every(_pad(x, self.pad), self.every)
        if not self.dilated:
            return normalized_conv(self.conv, self.norm, x, training)
        x = tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]])
        x = normalized_conv(self.conv, self.norm, x, training)
        return tf.batch_to_space(x, [2, 2], [[0, 0], [0, 0]])


class _Block(keras.layers.Layer):
    """Convolutions, to whose output the input is added, itself or through a 1x1 convolution.

    Attributes:
        expansion: of the output channels, relative to those of the 3x3 convolutions.
        convolutions: how many there are, but for the shortcut.
        strided: index of the convolution that has the stride.
    """

    expansion: int
    convolutions: int
    strided: int

    def __init__(self, channels, width, stride, shortcut, policy, seeds, dilated=None):
        super().__init__(dtype=policy)
        self.convs = [
            ConvNorm(
                *(outputs, kernel, stride if i == self.strided else 1, policy, next(seeds)),
                dilated=dilated is not None and i >= dilated,
            )
            for i, (kernel, outputs) in enumerate(self.shapes(channels, width))
        ]
        outputs = self.convs[-1].conv.filters
        self.shortcut = ConvNorm(outputs, 1, stride, policy, next(seeds)) if shortcut else None

    @classmethod
    def shapes(cls, channels, width) -> list[tuple[int, int]]:
        """(kernel, output channels) of each convolution but the shortcut."""
        raise NotImplementedError

    @classmethod
    def counts(cls, inputs, channels, width, side, stride) -> list[Conv]:
        """Those of the convolutions but the shortcut, for inputs of `side` pixels."""
        convs = []
        for i, (kernel, outputs) in enumerate(cls.shapes(channels, width)):
            if i == cls.strided:
                side = -(-side // stride)
            convs.append(Conv(kernel, inputs, outputs, side))
            inputs = outputs
        return convs

    def parts(self) -> dict:
        """{name: ConvNorm}."""
        parts = {f"conv{i}": conv for i, conv in enumerate(self.convs, 1)}
        return parts | ({"shortcut": self.shortcut} if self.shortcut else {})

    def call(self, x, training=False) -> tf.Tensor:
        begin = x
        for i, conv in enumerate(self.convs):
            x = conv(tf.nn.relu(x) if i else x, training=training)
        if self.shortcut:
            begin = self.shortcut(begin, training=training)
        return tf.nn.relu(x + begin)

    def plain(self, x, build, name, prefix) -> tf.Tensor:
        """The block of built-in Keras layers, see `Trunk.plain`."""
        begin = x
        for i, conv in enumerate(self.convs, 1):
            if conv.pad:
                x = build.pad(x, conv.pad, f"{prefix}_{i}_pad")
            names = f"{prefix}_{i}_conv", f"{prefix}_{i}_bn"
            x = build.conv(x, f"{name}_conv{i}", *names)
            if i < len(self.convs):
                x = build.relu(x, f"{prefix}_{i}_relu")
        if self.shortcut:
            names = f"{prefix}_0_conv", f"{prefix}_0_bn"
            begin = build.every(begin, self.shortcut.every, f"{prefix}_0_every")
            begin = build.conv(begin, f"{name}_shortcut", *names)
        return build.relu(build.add([begin, x], f"{prefix}_add"), f"{prefix}_out")


class Basic(_Block):
    """Two 3x3 convolutions."""

    expansion = 1
    convolutions = 2
    strided = 0

    @classmethod
    def shapes(cls, channels, width) -> list[tuple[int, int]]:
        return [(3, scaled(channels, width))] * 2


class Bottleneck(_Block):
    """A 1x1 convolution to fewer channels, a 3x3, and a 1x1 back."""

    expansion = 4
    convolutions = 3
    strided = 1

    @classmethod
    def shapes(cls, channels, width) -> list[tuple[int, int]]:
        inner = scaled(channels, width)
        return [(1, inner), (3, inner), (1, scaled(cls.expansion * channels, width))]


def _named(depths):
    """Names of conv1 and of the output of each block."""
    blocks = [f"block{s}_{n}" for s, depth in enumerate(depths, 1) for n in range(1, depth + 1)]
    return ("conv1", *blocks)


class ResNet18(ResNet):
    """`ResNet` of 18 layers; `pool` has 512 values at width 1."""

    kind = torch_model = "resnet18"
    title = "ResNet-18"
    block = Basic
    depths = (2, 2, 2, 2)
    map_names = _named(depths)
    layer_names = (*map_names, "pool")
    copies_layer = "block2_2"


class ResNet50(ResNet):
    """`ResNet` of 50 layers; `pool` has 2048 values at width 1."""

    kind = torch_model = "resnet50"
    title = "ResNet-50"
    block = Bottleneck
    depths = (3, 4, 6, 3)
    map_names = _named(depths)
    layer_names = (*map_names, "pool")
    copies_layer = "block2_4"


def every(x, stride: int) -> tf.Tensor:
    """Every `stride`-th pixel of each row and column, from the first on."""
    return x[:, ::stride, ::stride] if stride > 1 else x


def _pad(x, pixels):
    sides = [pixels, pixels]
    return tf.pad(x, [[0, 0], sides, sides, [0, 0]]) if pixels else x
