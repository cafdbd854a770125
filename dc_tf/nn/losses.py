"""The pretext losses, per image and in nats."""

import tensorflow as tf


def cross_entropy(logits, ids):
    """(batch,) float32 cross-entropy of softmax(`logits` (batch, classes)) at `ids` (batch,)."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=ids, logits=logits)


def hierarchical_loss(super_logits, sub_logits, super_ids, sub_ids):
    """Cross-entropy of the super-class plus that of the sub-class inside it.

    RotNet (Eq. 1) is the case without sub-classes, DeepCluster (Eq. 2) the case of a single
    super-class, whose own term is zero.

    Args:
        super_logits: (batch, num_super) float32.
        sub_logits: (batch, num_sub) float32, from the head of the images' own super-class; None
            where there are no sub-classes.
        super_ids: (batch,) int32 in [0, num_super).
        sub_ids: (batch,) int32 in [0, num_sub).

    Returns:
        (batch,) float32, nats per image; the step averages over the batch.

    Reference: Caron et al. 2019, Eq. 5.
    """
    loss = cross_entropy(super_logits, super_ids)
    if sub_logits is None:
        return loss
    return loss + cross_entropy(sub_logits, sub_ids)
