"""The fixed input stage: normalised RGB to image gradients.

maps = Sobel()(images)   # (b, r, r, 3) in [0, 1] -> (b, r + 2, r + 2, 2)
"""

import numpy as np
import tensorflow as tf

from dc_tf import keras

# Channel statistics of ImageNet, as in the paper's code.
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)

# d/dx and d/dy, as cross-correlation kernels.
SOBEL_X = np.float32([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
SOBEL_Y = np.float32([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])


def sobel_kernel() -> np.ndarray:
    """(3, 3, 1, 2) float32: the kernels of d/dx and d/dy on one grey channel."""
    return np.stack([SOBEL_X, SOBEL_Y], -1)[:, :, None, :]


class Normalize(keras.layers.Layer):
    """RGB in [0, 1] minus the channel mean, divided by the channel standard deviation."""

    def call(self, images) -> tf.Tensor:
        mean = tf.constant(RGB_MEAN, images.dtype)
        return (images - mean) / tf.constant(RGB_STD, images.dtype)


class Sobel(keras.layers.Layer):
    """Averages the channels, zero-pads by 2 and convolves with the two Sobel kernels, unpadded.

    (b, h, w, 3) -> (b, h + 2, w + 2, 2), not scaled. With this padding the layer folds exactly,
    including borders, into the next convolution (see `dc_tf.exporting.fold_sobel`).
    """

    def call(self, images) -> tf.Tensor:
        # The mean is in the kernel: a reduction over three channels takes longer.
        kernel = tf.constant(np.repeat(sobel_kernel() / 3, 3, axis=2), images.dtype)
        return tf.nn.conv2d(images, kernel, 1, [[0, 0], [2, 2], [2, 2], [0, 0]])


class Padding(keras.layers.Layer):
    """Zero-pads (b, h, w, c) by `pixels` on each side."""

    def __init__(self, pixels, **kwargs):
        super().__init__(**kwargs)
        self.pixels = pixels

    def call(self, x) -> tf.Tensor:
        sides = [self.pixels, self.pixels]
        return tf.pad(x, [[0, 0], sides, sides, [0, 0]])
