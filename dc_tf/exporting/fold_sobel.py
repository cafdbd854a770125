"""Folds Sobel and the first convolution into one 5x5 convolution on RGB.

Both are linear, so their composition is a convolution; with Sobel's padding of 2 the fold is exact
at every pixel, including the borders. The first layer of the folded network is trainable and is
not restricted to gradients of grey images.

    folded = fold(trunk)       # same features as trunk, up to rounding
"""

import numpy as np
import tensorflow as tf

from dc_tf import keras
from dc_tf.errors import ConfigError
from dc_tf.exporting.weights import assign_weights, named_weights
from dc_tf.nn.sobel import sobel_kernel
from dc_tf.nn.vgg16 import VGG16

# Sobel pads grey by 2 and conv1 pads Sobel's maps by 1. Sobel's maps are zero outside the padding
# of 2, so a single padding of 3 is equivalent.
PADDING = 3


class Padding(keras.layers.Layer):
    """Zero-pads (b, h, w, 3) normalised RGB by 3 on each side."""

    def call(self, images) -> tf.Tensor:
        sides = [PADDING, PADDING]
        return tf.pad(images, [[0, 0], sides, sides, [0, 0]])


class FoldedVGG16(VGG16):
    """`VGG16(sobel=True)` with a trainable 5x5 conv1 on RGB instead of Sobel and a 3x3 conv1.

    It has the arguments of `VGG16` except `sobel`, and the same input, endpoints and map sizes.
    """

    def __init__(self, **settings):
        super().__init__(sobel=True, **settings)
        self.stem = Padding(dtype="float32")
        conv1 = self.blocks[0][0]
        conv1.conv = keras.layers.Conv2D(
            conv1.conv.filters, 5, padding="valid", dtype=conv1.conv.dtype_policy
        )


def fold_kernel(kernel) -> np.ndarray:
    """The RGB kernel that is equivalent to Sobel followed by `kernel`.

    Args:
        kernel: (3, 3, 2, c), conv1's kernel on the two channels of Sobel.

    Returns:
        (5, 5, 3, c) float32; equal for the three colours, each a third of the grey kernel.
    """
    kernel = np.asarray(kernel, np.float64)
    sobel = sobel_kernel()[:, :, 0, :]
    folded = np.zeros((5, 5, kernel.shape[-1]))
    # y[p] = sum_a k[a] sum_b s[b] x[p + a + b]: the full convolution of both kernels.
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
            "which exports the network unchanged."
        )
    folded = FoldedVGG16(**settings, compute_dtype=compute_dtype).built_at_resolution()
    values = {k: {n: v.numpy() for n, v in d.items()} for k, d in named_weights(trunk).items()}
    values["conv1"]["kernel"] = fold_kernel(values["conv1"]["kernel"])
    assign_weights(values, folded)
    return folded
