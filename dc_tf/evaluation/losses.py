"""Losses of evaluations."""

import tensorflow as tf


def multi_label_loss(logits, labels):
    """(b,) binary cross-entropy summed over the classes that count, in nats.

    Args:
        logits: (b, classes) float32.
        labels: (b, classes) integers: 1 present, 0 absent, others not counted.
    """
    truth = tf.cast(labels == 1, tf.float32)
    counted = tf.cast((labels == 0) | (labels == 1), tf.float32)
    loss = tf.nn.sigmoid_cross_entropy_with_logits(labels=truth, logits=logits)
    return tf.reduce_sum(loss * counted, 1)
