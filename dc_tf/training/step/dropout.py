"""The dropout masks of a batch, which depend on no number of workers.

masks = dropout_masks(step_seed, (seed, stage_index), plan, rank, views=1, dim=4096)
"""

import tensorflow as tf

from dc_tf.nn.vgg16 import dropout_mask
from dc_tf.seeds import derive


def dropout_masks(
    step_seed, seed: tuple[int, int], plan, rank: int, views: int, dim: int
) -> tf.Tensor:
    """This worker's rows of the masks of a global batch.

    Args:
        step_seed: int32 scalar, equal on all workers.
        seed: (seed of the experiment, index of the stage).
        plan: BatchPlan.
        rank: of the worker.
        views: of an image.
        dim: columns of a mask.

    Returns:
        (plan.per_worker, views, dim) float32 of 0 and 2. A row depends on step, super-class, view
        and its place among the images of its super-class, not on the worker that computes it.
    """
    start = plan.topology.position(rank) * plan.per_served
    shape = [plan.per_super_class, dim]

    def mask(*key):
        derived = tf.stack([step_seed, derive("dropout", *seed, *key)])
        return dropout_mask(shape, derived)[start : start + plan.per_served]

    return tf.concat(
        [
            tf.stack([mask(s, *([view] if view else [])) for view in range(views)], 1)
            for s in plan.topology.served(rank)
        ],
        0,
    )
