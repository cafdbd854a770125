"""A batch in parts that are computed one after the other (`Stage.accumulate`).

    parts = split(images, 4)            # (4, b / 4, ...)
    rejoined(features, b)               # (b, d) of (4, b / 4, d)

Part i has the images i, i + count, ... of a batch that is ordered by super-class: so the parts have
equally many images of each super-class, the same ones on any number of workers.
"""

import tensorflow as tf


def split(tensor, count: int) -> tf.Tensor:
    """(count, b / count, ...) of (b, ...)."""
    images, *rest = tensor.shape
    parts = tf.reshape(tensor, [images // count, count, *rest])
    return tf.experimental.numpy.moveaxis(parts, 1, 0)


def rejoined(parts, rows: int) -> tf.Tensor:
    """(rows, d) of (count, rows / count, d), in the order before `split`."""
    return tf.reshape(tf.transpose(parts, [1, 0, 2]), [rows, -1])
