"""Losses of the evaluation tasks."""

import tensorflow as tf


def multi_label_loss(logits, labels) -> tf.Tensor:
    """Binary cross-entropy of each image, summed over the labelled classes, in nats.

    Args:
        logits: (b, classes) float32.
        labels: (b, classes) integers: 1 present, 0 absent; other values are ignored.

    Returns:
        (b,) float32.
    """
    targets = tf.cast(labels == 1, tf.float32)
    counted = tf.cast((labels == 0) | (labels == 1), tf.float32)
    loss = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
    return tf.reduce_sum(loss * counted, 1)
