"""What a training step measures, by name.

A step returns one vector, so that all of it crosses to the host, and between workers, at once.
Added up over the workers, its entries are sums over the global batch.

    sums = image_sums(objective, super_id, sub_id, 4, stage)        # in the graph
    measured = pack(STEP_NAMES, steps=1.0, trunk_gradient=..., ...)
    sums = tf.concat([sums, measured], 0)
    unpack(sums)["images"]                      # float
    mean_metrics(sums)["rotation_accuracy"]
"""

import math

import tensorflow as tf

from dc_tf.nn import losses

# Sums over images.
IMAGE_NAMES = (
    "images",
    "loss",
    "super_loss",
    "sub_loss",
    "contrast_loss",
    "super_hits",
    "rotation_hits",
    "sub_hits",
)
# Values divided by the number of workers that hold them, so that sums over the workers are: steps
# taken, squared gradient norms, and the number of workers that ask to stop.
STEP_NAMES = ("steps", "trunk_gradient", "head_gradient", "stops")
NAMES = (*IMAGE_NAMES, *STEP_NAMES)


def pack(names, **values) -> tf.Tensor:
    """(len(names),) float32 from one scalar for each name."""
    if values.keys() != set(names):
        raise ValueError(f"got {sorted(values)}; needs {sorted(names)}.")
    return tf.stack([tf.cast(values[name], tf.float32) for name in names])


def image_sums(objective, super_ids, sub_ids, rotations: int, stage, contrast=None) -> tf.Tensor:
    """What a batch adds to the sums over images.

    Args:
        objective: losses.Objective of all views of all images.
        super_ids: (rows,) int32, of each view.
        sub_ids: (rows,) int32, or with C clusterings (rows, C).
        rotations: 4, or 1 without rotations; a super-class is `cluster * rotations + rotation`.
        stage: experiment.Stage.
        contrast: (rows,) float32 loss of `BatchContrast`, or None.

    Returns:
        (len(IMAGE_NAMES),) float32; an image counts once, with the mean over its views.
    """
    of_heads, super_logits, sub_logits = objective
    loss = losses.mixed(of_heads, contrast, stage.contrast.weight)
    guess = tf.argmax(super_logits, -1, tf.int32)
    super_loss = losses.cross_entropy(super_logits, super_ids)
    sub_hits = 0.0
    if sub_logits is not None:
        hits = _count_equal(tf.argmax(sub_logits, -1, tf.int32), sub_ids)
        sub_hits = hits / stage.clusterings
    sums = pack(
        IMAGE_NAMES,
        images=tf.size(loss),
        loss=tf.reduce_sum(loss),
        super_loss=tf.reduce_sum(super_loss),
        sub_loss=tf.reduce_sum(of_heads - super_loss),
        contrast_loss=0.0 if contrast is None else tf.reduce_sum(contrast),
        super_hits=_count_equal(guess, super_ids),
        rotation_hits=_count_equal(guess % rotations, super_ids % rotations),
        sub_hits=sub_hits,
    )
    return sums / stage.views.count


def _count_equal(a, b):
    return tf.reduce_sum(tf.cast(tf.equal(a, b), tf.float32))


def unpack(sums) -> dict[str, float]:
    """{name: value} of a vector of NAMES."""
    return dict(zip(NAMES, (float(value) for value in sums), strict=True))


def value(sums, name: str) -> float:
    """One entry of a vector of NAMES."""
    return float(sums[NAMES.index(name)])


def mean_metrics(sums) -> dict[str, float]:
    """Named means from a vector of NAMES that was summed over steps and workers.

    Accuracies are in [0, 1], losses in nats per image. Gradient norms are root mean squares over
    the steps taken of the Euclidean norm of the gradient of the global batch.
    """
    total = unpack(sums)
    images, steps = max(total["images"], 1.0), max(total["steps"], 1.0)
    return {
        "loss": total["loss"] / images,
        "super_loss": total["super_loss"] / images,
        "sub_loss": total["sub_loss"] / images,
        "contrast_loss": total["contrast_loss"] / images,
        "super_accuracy": total["super_hits"] / images,
        "rotation_accuracy": total["rotation_hits"] / images,
        "sub_accuracy": total["sub_hits"] / images,
        "gradient_norm": math.sqrt(total["trunk_gradient"] / steps),
        "head_gradient_norm": math.sqrt(total["head_gradient"] / steps),
    }
