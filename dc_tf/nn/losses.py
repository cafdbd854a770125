"""Pretext losses, in nats per image."""

from typing import NamedTuple

import tensorflow as tf


class Objective(NamedTuple):
    """Loss and logits of a batch.

    Attributes:
        loss: (batch,) float32; the step averages it over the batch.
        super_logits: (batch, num_super) float32.
        sub_logits: (batch, num_sub) float32, within the image's own super-class, or with C
            clusterings (batch, C, num_sub); None without sub-classes.
    """

    loss: tf.Tensor
    super_logits: tf.Tensor
    sub_logits: tf.Tensor | None


def cross_entropy(logits, ids) -> tf.Tensor:
    """(batch, ...) float32 cross-entropy of softmax(`logits` (batch, ..., classes)) at `ids`."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=ids, logits=logits)


def hierarchical(super_logits, sub_logits, super_ids, sub_ids) -> Objective:
    """Cross-entropy of the super-class plus that of the sub-class within it.

    Without sub-classes it is RotNet's loss (Eq. 1); with a single super-class, whose term is zero,
    it is DeepCluster's (Eq. 2).

    Args:
        super_logits: (batch, num_super) float32.
        sub_logits: (batch, num_sub) float32, from the head of the images' own super-class, or with
            C clusterings (batch, C, num_sub); None without sub-classes.
        super_ids: (batch,) int32 in [0, num_super).
        sub_ids: (batch,) int32 in [0, num_sub), or (batch, C); the loss is the mean over the
            clusterings.

    Reference: Caron et al. 2019, Eq. 5; several clusterings are of Caron et al. 2020, appendix A.
    """
    loss = cross_entropy(super_logits, super_ids)
    if sub_logits is not None:
        loss += _over_clusterings(cross_entropy(sub_logits, sub_ids))
    return Objective(loss, super_logits, sub_logits)


def _over_clusterings(loss):
    """(batch,): the mean of (batch, C) over the clusterings; (batch,) as it is."""
    return loss if loss.shape.rank == 1 else tf.reduce_mean(loss, 1)


def product(logits, num_super, super_ids, sub_ids) -> Objective:
    """Cross-entropy of one softmax over all pairs of a super-class and a sub-class.

    The softmax of a pair factors into that of its super-class, whose logit is the log-sum-exp over
    its sub-classes, and that of the sub-class within it; so accuracy is reported for each.

    Args:
        logits: (batch, num_super * num_sub) float32, super-class by super-class.
        num_super: int.
        super_ids: (batch,) int32 in [0, num_super).
        sub_ids: (batch,) int32 in [0, num_sub).

    Reference: Caron et al. 2019, Eq. 4.
    """
    num_sub = logits.shape[1] // num_super
    pairs = tf.reshape(tf.stop_gradient(logits), [-1, num_super, num_sub])
    return Objective(
        cross_entropy(logits, super_ids * num_sub + sub_ids),
        tf.reduce_logsumexp(pairs, 2),
        tf.gather(pairs, super_ids, batch_dims=1),
    )


def mixed(of_heads, contrast, weight: float) -> tf.Tensor:
    """(batch,) float32, the loss of a stage.

    Args:
        of_heads: (batch,) float32, that of an Objective.
        contrast: (batch,) float32, or None without this loss.
        weight: of the second.
    """
    return of_heads if contrast is None else (1 - weight) * of_heads + weight * contrast
