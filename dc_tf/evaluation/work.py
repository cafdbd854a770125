"""Parts of the work of more than one task, for `cost`.

features_part(extractor, frozen, train, test, batch_size=256)
"""

import numpy as np
import tensorflow as tf

from dc_tf.evaluation.cost import Part, rate, spread

_PLACES = 256  # images that samples are taken from


def text_of(frozen, train, test, more="") -> str:
    """The amount of work: "1,334 and 334 images at 48 pixels"."""
    text = f"{len(train.rows):,} and {len(test.rows):,} images at {frozen.resolution} pixels"
    return f"{text}, {more}" if more else text


def features_part(extractor, frozen, train, test, batch_size) -> Part:
    """All images of both splits once through a network, from centre crops."""
    count = len(train.rows) + len(test.rows)
    return forward_part(extractor, frozen, train, count, batch_size)


def forward_part(network, frozen, split, count, batch_size) -> Part:
    """Centre crops through a network.

    Args:
        network: function of (b, r, r, 3) images.
        split: splits.Split or MultiLabelSplit, whose images the samples are of.
        count: of images in all.
        batch_size: images at a time, at most.
    """

    # One pipeline for all samples: to build one takes longer than many images.
    pipeline = []

    def sample(images):
        if not pipeline:
            places = spread(len(split.rows), min(len(split.rows), _PLACES))
            ones = split.images(1, frozen.resolution, frozen.short_side, places)
            pipeline.append(iter(ones.repeat()))
        with split.errors():
            wait(network(tf.concat([next(pipeline[0]) for _ in range(images)], 0)))
        return images

    return Part("images through the network", count, sample, batch_size)


def steps_part(count, most, prepare, forward: Part) -> Part:
    """Training steps, counted in images.

    Args:
        count: images of all steps.
        most: images of a step.
        prepare: function of a batch size, at most `most`, to a function that takes one such step.
        forward: the forward pass of the same network, by whose speed the batch is chosen: a step of
            the task itself may take minutes.
    """
    taken = []

    def sample(images):
        if not taken:
            batch_size = max(1, min(most, int(rate(forward) / 8)))
            taken.append((batch_size, prepare(batch_size)))
        batch_size, step = taken[0]
        steps = -(-images // batch_size)
        for _ in range(steps):
            wait(step())
        return steps * batch_size

    return Part("images of training steps", count, sample, most)


def wait(tensors):
    """Returns when a tensor, or the first one of a dictionary, has been computed."""
    value = next(iter(tensors.values())) if isinstance(tensors, dict) else tensors
    np.asarray(value)
