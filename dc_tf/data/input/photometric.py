"""Photometric augmentation: what changes an image's values and not its geometry.

    settings = Photometric(jitter=0.5, greyscale=0.2, blur=0.5)
    image = photometric(image, seed, settings)

Stateless: equal seeds give equal pixels. It follows the crop and the flip, and precedes the
rotation.
"""

import dataclasses

import tensorflow as tf

from dc_tf.data.input import colour
from dc_tf.data.input.blur import blur
from dc_tf.seeds import derive

# Chen et al. 2020, appendix A.
JITTER_PROBABILITY = 0.8
SIGMAS = 0.1, 2.0
# The crop draws from the seed itself.
_STREAM = [derive("photometric", 0), derive("photometric", 1)]


@dataclasses.dataclass(frozen=True)
class Photometric:
    """Strength of the jitter and probabilities of the others, applied in this order.

    Attributes:
        jitter: strength of the colour jitter (`colour.jitter`), applied with probability 0.8.
        greyscale, blur, solarise: probabilities.
    """

    jitter: float = 0.0
    greyscale: float = 0.0
    blur: float = 0.0
    solarise: float = 0.0


def photometric(image, seed, settings) -> tf.Tensor:
    """Applies jitter, greyscale, blur and solarise, each at random.

    An image's draws for one of them do not depend on the settings of the others.

    Args:
        image: (size, size, 3) float32 in [0, 1].
        seed: (2,) int32, as for the crop.
        settings: Photometric.

    Returns:
        The same shape and range; `image` itself where all settings are 0.
    """
    if settings == Photometric():
        return image
    uniform = tf.random.stateless_uniform([9], tf.bitwise.bitwise_xor(seed, _STREAM), alg="philox")
    low, high = SIGMAS
    sigma = low + (high - low) * uniform[8]
    for draw, probability, change in (
        (uniform[0], JITTER_PROBABILITY if settings.jitter else 0.0, _jitter(settings, uniform)),
        (uniform[1], settings.greyscale, colour.greyscale),
        (uniform[2], settings.blur, lambda x: blur(x, sigma)),
        (uniform[3], settings.solarise, colour.solarise),
    ):
        if probability:
            image = _sometimes(draw < probability, change, image)
    return image


def _jitter(settings, uniform):
    return lambda image: colour.jitter(image, settings.jitter, uniform[4:8])


def _sometimes(condition, change, image):
    shape = image.shape
    changed = tf.cond(condition, lambda: change(image), lambda: image)
    return tf.ensure_shape(changed, shape)
