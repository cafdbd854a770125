"""TensorBoard's files, read with its own reader."""

import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator


def opened(folder):
    """All events of a folder, as TensorBoard reads them."""
    everything = dict.fromkeys(event_accumulator.DEFAULT_SIZE_GUIDANCE, 0)
    return event_accumulator.EventAccumulator(folder, size_guidance=everything).Reload()


def scalars(events):
    """{tag: [(step, value), ...]}."""
    tags = events.PluginTagToContent("scalars")
    return {
        tag: [(e.step, float(tf.make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)]
        for tag in tags
    }
