"""The values that an exported model takes as images; it refuses all others.

    x = of_typed(images, "auto")        # float32 in [0, 1], of uint8 or of floats in [0, 1]

Integers are 0 to 255. Floats are in [0, 1], or as `input_range` states. Keras files and ONNX get
every input as float32, so "auto" there reads each image by its own largest value: up to 1 it is in
[0, 1], from 2 on it is in 0 to 255.

A refused image becomes NaN, which TensorFlow reports as InvalidArgumentError with our message.
Runtimes without that check (ONNX, TFLite, XLA) return NaN as its features.
"""

from __future__ import annotations

import tensorflow as tf

from dc_tf.errors import ConfigError

AUTO, UNIT, BYTES = "auto", "1", "255"
INPUT_RANGES = (AUTO, UNIT, BYTES)
# Rounding, also that of float16 and bfloat16; a quarter of a grey level.
TOLERANCE = 1e-3
_IMAGE = [1, 2, 3]  # axes
_UINT8_OR_UNIT = "uint8, or floats in [0, 1]"
_UINT8_OR_BYTES = "uint8, or floats in 0 to 255"


def checked_range(value: str | int) -> str:
    """`value` as one of INPUT_RANGES.

    Raises:
        ConfigError: it is none of them.
    """
    if str(value) not in INPUT_RANGES:
        raise ConfigError(f"--input_range is {value!r}; use one of {', '.join(INPUT_RANGES)}.")
    return str(value)


def rule(input_range: str, typed: bool) -> str:
    """What a model takes, as in "images are ...": for the model card and error messages.

    Args:
        input_range: of INPUT_RANGES.
        typed: whether the format knows the dtype that the caller gave.
    """
    if input_range == BYTES:
        return _UINT8_OR_BYTES
    if typed:
        return _UINT8_OR_UNIT
    return "floats in [0, 1]" if input_range == UNIT else f"{_UINT8_OR_UNIT} or 0 to 255"


def of_typed(images: tf.Tensor, input_range: str) -> tf.Tensor:
    """float32 in [0, 1], of images in the dtype that the caller gave.

    Args:
        images: (b, h, w, 3) of an integer or floating dtype.
        input_range: of INPUT_RANGES; it concerns floats, and "auto" is "1".

    Raises:
        InvalidArgumentError: when it is computed, if a value is out of range or NaN.
    """
    accepted = rule(input_range, typed=True)
    as_floats = tf.cast(images, tf.float32)
    if images.dtype == tf.uint8:
        return as_floats / 255
    if images.dtype.is_integer:
        return _refuse_others(as_floats / 255, accepted)
    if input_range == BYTES:
        return _refuse_others(_refuse_units(as_floats) / 255, accepted)
    return _refuse_others(as_floats, accepted)


def of_floats(images: tf.Tensor, input_range: str) -> tf.Tensor:
    """float32 in [0, 1], of float32 images that may have been cast from uint8.

    Args:
        images: (b, h, w, 3) float32; also a KerasTensor.
        input_range: of INPUT_RANGES.

    Raises:
        InvalidArgumentError: as of `of_typed`.
    """
    accepted = rule(input_range, typed=False)
    if input_range == UNIT:
        return _refuse_others(images, accepted)
    if input_range == BYTES:
        return _refuse_others(_refuse_units(images) / 255, accepted)
    largest = tf.reduce_max(images, _IMAGE, keepdims=True)
    return _refuse_others(images / tf.where(largest < 2, 1.0, 255.0), accepted)


def _refuse_others(images, accepted):
    """`images` if in [0, 1]; each image with another value, or NaN, is NaN and an error."""
    least, largest = (f(images, _IMAGE, keepdims=True) for f in (tf.reduce_min, tf.reduce_max))
    # Comparisons with NaN are false.
    inside = tf.logical_and(least >= -TOLERANCE, largest <= 1 + TOLERANCE)
    message = f"dc_tf: image values out of range; this model takes {accepted}."
    # Of one number per image: checking all pixels would take thirty times as long.
    return images + tf.debugging.check_numerics(tf.where(inside, 0.0, float("nan")), message)


def _refuse_units(images):
    """NaN for a batch that is in [0, 1] and not of integers, as a dark one of bytes would be."""
    fractions = tf.reduce_any(tf.not_equal(images, tf.round(images)))
    in_units = tf.logical_and(tf.reduce_max(images) <= 1, fractions)
    return images + tf.where(in_units, float("nan"), 0.0)
