"""Folds Sobel and the first convolution into one convolution on RGB, larger by 2.

Both are linear, so their composition is a convolution of the stride of the first one: 5x5 of 3x3,
9x9 of 7x7. Sobel's maps have one more pixel on each side than the image and are zero beyond, so the
fold is exact at every pixel, including the borders. The first layer of the folded network is
trainable and is not restricted to gradients of grey images.

    folded = fold(trunk)       # same features as trunk, up to rounding
"""

import numpy as np

from dc_tf.errors import ConfigError
from dc_tf.exporting.weights import assign_weights, named_weights
from dc_tf.nn.sobel import sobel_kernel
from dc_tf.nn.trunk import Trunk


def fold_kernel(kernel) -> np.ndarray:
    """The RGB kernel that is equivalent to Sobel followed by `kernel`.

    Args:
        kernel: (s, s, 2, c), conv1's kernel on the two channels of Sobel.

    Returns:
        (s + 2, s + 2, 3, c) float32; equal for the three colours, each a third of the grey kernel.
    """
    kernel = np.asarray(kernel, np.float64)
    sobel = sobel_kernel()[:, :, 0, :]
    side = len(kernel)
    folded = np.zeros((side + 2, side + 2, kernel.shape[-1]))
    # y[p] = sum_a k[a] sum_b s[b] x[p + a + b]: the full convolution of both kernels.
    for i in range(side):
        for j in range(side):
            folded[i : i + 3, j : j + 3] += np.einsum("yxg,gc->yxc", sobel, kernel[i, j])
    return np.repeat(folded[:, :, None, :] / 3, 3, axis=2).astype(np.float32)


def fold(trunk: Trunk, compute_dtype="float32") -> Trunk:
    """A folded network with the weights of a built trunk.

    Raises:
        ConfigError: the trunk has no Sobel stage.
    """
    if trunk.folded or not trunk.settings["sobel"]:
        raise ConfigError(
            "sobel is 'folded', but this network has no Sobel stage to fold; use sobel='layer', "
            "which exports the network unchanged."
        )
    folded = trunk.fresh(compute_dtype, folded=True)
    values = {k: {n: v.numpy() for n, v in d.items()} for k, d in named_weights(trunk).items()}
    stem = values[trunk.stem_conv]
    stem["kernel"] = fold_kernel(stem["kernel"])
    assign_weights(values, folded)
    return folded
