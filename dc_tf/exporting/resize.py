"""Antialiased bilinear resizing as two matrix products.

    x = resize(images, 224)      # as tf.image.resize(images, [224, 224], antialias=True)

XLA and TFLite have no kernel for the latter; they have all that is used here. There is no branch
for images that have the size already, which XLA could not differentiate: they stay equal, and the
products take a small part of what the network takes.
"""

import tensorflow as tf


def resize(images: tf.Tensor, side: int) -> tf.Tensor:
    """(b, side, side, 3) float32, of (b, h, w, 3) float32 of any size.

    The same values if the size is known to be right, or found to be.
    """
    if images.shape[1:3] == [side, side]:
        return images
    height, width = (tf.shape(images)[axis] for axis in (1, 2))
    planes = tf.transpose(images, [0, 3, 1, 2])
    rows = tf.matmul(_shares(height, side), planes)
    pixels = tf.matmul(rows, _shares(width, side), transpose_b=True)
    return tf.transpose(pixels, [0, 2, 3, 1])


def _shares(size, side):
    """(side, size): the share of each of `size` pixels in each of the new ones, a triangle."""
    step = tf.cast(size, tf.float32) / side
    centres = (tf.range(side, dtype=tf.float32) + 0.5) * step - 0.5
    places = tf.range(tf.cast(size, tf.float32))
    distances = tf.abs(centres[:, None] - places) / tf.maximum(step, 1)
    shares = tf.maximum(1 - distances, 0)
    return shares / tf.reduce_sum(shares, 1, keepdims=True)
