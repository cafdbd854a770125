"""Sobel and the first convolution as one 5x5 convolution on RGB.

Both are linear, so they compose; with Sobel's padding of 2 the fold is exact on every pixel,
borders included. The folded network can be trained from its first layer on, which no longer is
bound to grey gradients.

    folded = fold(trunk)       # same features as trunk, to rounding
"""

import numpy as np
import tensorflow as tf

from dc_tf import keras
from dc_tf.errors import ConfigError
from dc_tf.export.weights import assign_weights, named_weights
from dc_tf.nn.sobel import sobel_kernel
from dc_tf.nn.vgg16 import VGG16

# Sobel pads grey by 2 and conv1 pads Sobel's maps by 1. Outside of the 2 Sobel's maps are zero
# anyway, so one padding of 3 does both.
PADDING = 3


class Padding(keras.layers.Layer):
    """Zero-pads (b, h, w, 3) normalised RGB by 3 on each side."""

    def call(self, images):
        sides = [PADDING, PADDING]
        return tf.pad(images, [[0, 0], sides, sides, [0, 0]])


class FoldedVGG16(VGG16):
    """`VGG16(sobel=True)` with a trainable 5x5 conv1 on RGB in place of Sobel and a 3x3 conv1.

    Takes the arguments of `VGG16` except for `sobel`; same input, endpoints and map sizes.
    """

    def __init__(self, **settings):
        super().__init__(sobel=True, **settings)
        self.stem = Padding(dtype="float32")
        conv1 = self.blocks[0][0]
        conv1.conv = keras.layers.Conv2D(
            conv1.conv.filters, 5, padding="valid", dtype=conv1.conv.dtype_policy
        )


def fold_kernel(kernel) -> np.ndarray:
    """The RGB kernel that does what Sobel followed by `kernel` does.

    Args:
        kernel: (3, 3, 2, c) of conv1, on Sobel's two channels.

    Returns:
        (5, 5, 3, c) float32; the same for the three colours, each a third of grey.
    """
    kernel = np.asarray(kernel, np.float64)
    sobel = sobel_kernel()[:, :, 0, :]
    folded = np.zeros((5, 5, kernel.shape[-1]))
    # y[p] = sum_a k[a] sum_b s[b] x[p + a + b]: offsets add up, a full convolution of the kernels.
    for i in range(3):
        for j in range(3):
            folded[i : i + 3, j : j + 3] += np.einsum("yxg,gc->yxc", sobel, kernel[i, j])
    return np.repeat(folded[:, :, None, :] / 3, 3, axis=2).astype(np.float32)


def fold(trunk: VGG16, compute_dtype="float32") -> FoldedVGG16:
    """A folded network with the weights of a built trunk.

    Raises:
        ConfigError: the trunk has no Sobel stage.
    """
    settings = dict(trunk.settings)
    if isinstance(trunk, FoldedVGG16) or not settings.pop("sobel"):
        raise ConfigError(
            "sobel is 'folded', but this network has no Sobel stage to fold; use sobel='layer', "
            "which exports it as it is."
        )
    folded = FoldedVGG16(**settings, compute_dtype=compute_dtype).built_at_resolution()
    values = {k: {n: v.numpy() for n, v in d.items()} for k, d in named_weights(trunk).items()}
    values["conv1"]["kernel"] = fold_kernel(values["conv1"]["kernel"])
    assign_weights(values, folded)
    return folded
