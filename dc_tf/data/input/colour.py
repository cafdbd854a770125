"""Changes of an image's colours: jitter, greyscale, solarise.

    image = jitter(image, 0.5, tf.random.stateless_uniform([4], seed))

All functions take and return (height, width, 3) float32 RGB in [0, 1].
"""

import numpy as np
import tensorflow as tf

# Weights of red, green and blue in a grey value (ITU-R BT.601), as in PIL and torchvision.
GREY = (0.299, 0.587, 0.114)
# Largest changes at strength 1; Chen et al. 2020, appendix A.
BRIGHTNESS = CONTRAST = SATURATION = 0.8
HUE = 0.2


def jitter(image, strength, uniform) -> tf.Tensor:
    """Changes brightness, contrast and saturation, then the hue.

    Brightness multiplies by a factor, contrast blends with the mean grey value, saturation blends
    each pixel with its grey value; factors are uniform in 1 +- 0.8 * strength, from 0 on. Values
    are clipped once after all three, so their order is irrelevant: they commute. Then the hue, a
    fraction of the circle, is shifted by up to 0.2 * strength, at most half a circle.

    Args:
        image: (height, width, 3) float32 in [0, 1].
        strength: float, at least 0.
        uniform: (4,) float32 in [0, 1): of brightness, contrast, saturation and hue.

    Reference: Chen et al. 2020, appendix A; blends as in torchvision's `ColorJitter`.
    """
    brightness = _factor(BRIGHTNESS * strength, uniform[0])
    contrast = _factor(CONTRAST * strength, uniform[1])
    saturation = _factor(SATURATION * strength, uniform[2])
    grey = tf.constant(GREY)
    # The three are one affine map: a product with a matrix, and the same offset for all channels.
    matrix = saturation * tf.eye(3) + (1 - saturation) * grey[:, None]
    offset = (1 - contrast) * brightness * tf.reduce_sum(_means(image) * grey)
    mapped = _mix_channels(image, brightness * contrast * matrix) + offset
    shift = min(HUE * strength, 0.5) * (2 * uniform[3] - 1)
    return tf.raw_ops.AdjustHue(images=tf.clip_by_value(mapped, 0.0, 1.0), delta=shift)


def greyscale(image) -> tf.Tensor:
    """Replaces each pixel by its grey value."""
    matrix = np.tile(np.float32(GREY)[:, None], 3)
    return tf.minimum(_mix_channels(image, matrix), 1.0)  # a sum of weights may round above 1


def solarise(image) -> tf.Tensor:
    """Inverts the values above 1/2."""
    return tf.minimum(image, 1.0 - image)


def _factor(change, uniform):
    """Uniform in [max(0, 1 - change), 1 + change]."""
    low = max(0.0, 1.0 - change)
    return low + (1.0 + change - low) * uniform


def _mix_channels(image, matrix):
    return tf.reshape(tf.matmul(tf.reshape(image, [-1, 3]), matrix), tf.shape(image))


def _means(image):
    """(3,) mean of each channel."""
    # Summing whole rows first is several times as fast as one sum over pixels of three channels.
    rows = tf.reduce_mean(tf.reshape(image, [image.shape[0], -1]), 0)
    return tf.reduce_mean(tf.reshape(rows, [-1, 3]), 0)
