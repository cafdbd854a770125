"""Builds the network from built-in layers of Keras 3, named as those of `keras_model`.

    model = keras_3_model(trunk)
    model.save("mine.keras")        # loads where only Keras 3 is installed

Its layers and operations are those that every backend has; TensorFlow, PyTorch and JAX are tested.
Keras 3 has no check of values that raises; the output of images that are refused is NaN.
"""

import tensorflow as tf

from dc_tf import keras
from dc_tf.exporting.input_range import AUTO, BYTES, TOLERANCE, UNIT
from dc_tf.exporting.keras_model import Builder, input_stage

_IMAGE = (1, 2, 3)  # axes


def keras_3_model(trunk, input_range=AUTO) -> "keras.Model":
    """A functional model of Keras 3; arguments as of `keras_model.keras_model`.

    Raises:
        ConfigError: Keras 3 is missing.
    """
    module = keras.keras_3()
    resolution = trunk.settings["resolution"]
    build = Keras3Builder(trunk, module.layers)
    images = module.layers.Input([resolution, resolution, 3], name="images")
    units, refused = in_units(module.ops, images, input_range)
    features = trunk.plain(input_stage(trunk, units, build), build)
    output = module.layers.Add(name="features")([features, refused])
    model = module.Model(images, output, name=trunk.kind)
    build.set_weights()
    return model


class Keras3Builder(Builder):
    """`Builder` with layers of Keras 3."""

    def every(self, x, stride, name) -> tf.Tensor:
        """A pooling of one pixel, since a slice is no layer."""
        return self.layers.MaxPooling2D(1, stride, name=name)(x) if stride > 1 else x


def in_units(ops, images, input_range) -> tuple:
    """Images in [0, 1], and a number for each that is NaN if it is refused, else 0.

    As `input_range.of_floats`. The number is added to the output of the model: max-pooling of
    TensorFlow does not pass NaN on.

    Args:
        ops: `keras.ops`.
        images: (b, h, w, 3) float32 tensor.
        input_range: of `input_range.INPUT_RANGES`.

    Returns:
        (b, h, w, 3) float32, (b, 1) float32.
    """
    if input_range == UNIT:
        return images, _nan_if_outside(ops, images)
    if input_range == BYTES:
        fractions = ops.any(ops.not_equal(images, ops.round(images)))
        of_units = ops.logical_and(ops.max(images) <= 1, fractions)
        scaled = images / 255.0
        return scaled, _nan_if_outside(ops, scaled) + ops.where(of_units, float("nan"), 0.0)
    largest = ops.max(images, axis=_IMAGE, keepdims=True)
    scaled = images / ops.where(largest < 2, 1.0, 255.0)
    return scaled, _nan_if_outside(ops, scaled)


def _nan_if_outside(ops, images):
    least, largest = ops.min(images, axis=_IMAGE), ops.max(images, axis=_IMAGE)
    # Comparisons with NaN are false.
    inside = ops.logical_and(least >= -TOLERANCE, largest <= 1 + TOLERANCE)
    return ops.expand_dims(ops.where(inside, 0.0, float("nan")), -1)
