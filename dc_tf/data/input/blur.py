"""Gaussian blur of one square image.

image = blur(image, sigma=1.3)
"""

import numpy as np
import tensorflow as tf

# Rows of a block of the banded matrix: wide enough for a fast product, narrow enough to skip most
# of the zeros.
_BLOCK = 32


def radius_of(size: int) -> int:
    """Pixels on each side of the kernel's centre: the kernel is about a tenth of the side."""
    return size // 20


def blur(image, sigma) -> tf.Tensor:
    """Convolves rows and columns with a Gaussian that is cut off at `radius_of` the side.

    Each value is a weighted mean of the pixels inside the image, so borders do not darken.

    Args:
        image: (size, size, 3) float32 in [0, 1].
        sigma: () float32, standard deviation in pixels, positive.

    Returns:
        The same shape and range.

    Reference: Chen et al. 2020, appendix A.
    """
    size = image.shape[0]
    rows, distances, inside = _blocks(size, radius_of(size))
    weights = inside * tf.exp(-tf.square(distances / sigma) / 2)
    weights /= tf.reduce_sum(weights, -1, keepdims=True)
    for _ in range(2):
        blocks = tf.matmul(weights, tf.gather(tf.reshape(image, [size, -1]), rows))
        tall = tf.reshape(blocks, [-1, size, 3])[:size]
        image = tf.transpose(tall, [1, 0, 2])
    return tf.minimum(image, 1.0)  # the weights may add up to 1 and a rounding error


def _blocks(size, radius):
    """The banded (size, size) matrix of a blur in blocks of `_BLOCK` of its rows.

    Returns:
        (blocks, _BLOCK + 2 * radius) int32, the input rows of each block; (_BLOCK, the same) and
        float32, their distances from the output rows; (blocks, _BLOCK, the same) float32, 1 where
        an input row exists and is near enough, else 0.
    """
    starts = np.arange(0, size, _BLOCK)
    outputs, inputs = np.arange(_BLOCK), np.arange(-radius, _BLOCK + radius)
    rows = starts[:, None] + inputs
    distances = np.float32(inputs - outputs[:, None])
    exists = (rows >= 0) & (rows < size)
    near = np.abs(distances) <= radius
    inside = (exists[:, None] & near).astype(np.float32)
    # Output rows beyond the image are cut off; they may not divide by zero.
    beyond = starts[:, None] + outputs >= size
    inside[beyond] = 1.0
    return np.clip(rows, 0, size - 1).astype(np.int32), distances, inside
