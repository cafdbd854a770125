"""Parts of work that several tasks share, for `cost`.

features_part(extractor, frozen, train, test, batch_size=256)
"""

import numpy as np
import tensorflow as tf

from dc_tf.evaluation.cost import Part, rate, spread

_PLACES = 256  # number of images that samples are drawn from
_CHUNK = 32  # images per batch of large samples
_STEPS = 16  # of the largest sample of training


def text_of(frozen, train, test, more="") -> str:
    """The amount of work: "1,334 and 334 images at 48 pixels"."""
    text = f"{len(train.rows):,} and {len(test.rows):,} images"
    if frozen.resolution:  # given features have none
        text += f" at {frozen.resolution} pixels"
    return f"{text}, {more}" if more else text


def features_part(extractor, frozen, train, test, batch_size) -> Part:
    """One pass of the network over the centre crops of both splits."""
    count = len(train.rows) + len(test.rows)
    return forward_part(extractor, frozen, train, count, batch_size)


def forward_part(network, frozen, split, count, batch_size) -> Part:
    """Forward passes of a network on centre crops.

    Args:
        network: function of (b, r, r, 3) images.
        frozen: models.FrozenModel, for the preprocessing.
        split: splits.Split or MultiLabelSplit that samples are taken from.
        count: total number of images.
        batch_size: largest number of images per batch.
    """

    # The same pipelines for all samples: building one takes longer than reading many images.
    # Batches of one would cost as much as a small network itself.
    pipelines = {}

    def taken(images):
        size = 1 if images < _CHUNK else _CHUNK
        batches = [next(pipelines[size]) for _ in range(-(-images // size))]
        return tf.concat(batches, 0)[:images]

    def sample(images):
        with split.errors():
            if not pipelines:
                pipelines.update({size: _endless(split, frozen, size) for size in (1, _CHUNK)})
            wait(network(taken(images)))
        return images

    return Part("images through the network", count, sample, batch_size)


def _endless(split, frozen, size):
    """An iterator, already started, over batches of `size` centre crops, again and again."""
    whole = -(-min(len(split.rows), _PLACES) // size) * size  # no batch is smaller
    places = spread(len(split.rows), whole)
    crop = frozen.resolution, frozen.short_side
    batches = split.images(size, *crop, places, frozen.interpolation)
    iterator = iter(batches.repeat())
    next(iterator)
    return iterator


def steps_part(count, most, prepare, forward: Part) -> Part:
    """Training steps, counted in images.

    Args:
        count: total number of images over all steps.
        most: images per step of the task; a sample has several steps of no more than that.
        prepare: function that takes a batch size, at most `most`, and returns a function that runs
            one step of that size.
        forward: part for the forward pass of the same network. Its rate determines the batch size
            of the samples, since a full step of the task may take minutes.
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

    return Part("images of training steps", count, sample, _STEPS * most)


def wait(tensors) -> None:
    """Blocks until a tensor, or the first one of a dictionary, has been computed."""
    value = next(iter(tensors.values())) if isinstance(tensors, dict) else tensors
    np.asarray(value)
