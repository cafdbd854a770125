"""Decodes, crops, flips and rotates images with stateless ops: equal seeds give equal pixels.

    image = random_resized_crop(encoded, 224, seed=(7, 3))
    image = rotate(image, quarter_turns=1)

The rotation is a label, so it comes last: crop, flip, rotate. All functions process one image on
the CPU, inside `tf.data.Dataset.map`. Resizing is bilinear and antialiased.
"""

import math

import tensorflow as tf

_TRIES = 10
# TensorFlow's names of the kernels of interpolation; the cubic one is Pillow's, with a = -0.5.
KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}


def random_resized_crop(
    encoded, size, seed, min_area=0.08, max_ratio=4 / 3, flip=True, max_area=1.0
) -> tf.Tensor:
    """Crops a random window, resizes it to a square and flips it with probability 1/2.

    The window's share of the image area is uniform in [min_area, max_area], its width / height
    log-uniform in [1 / max_ratio, max_ratio], its position uniform. The first of ten draws that
    fits is used; if none fits, the largest centred window of an allowed shape. Only the window of a
    JPEG is decoded.

    Args:
        encoded: () string, a JPEG or PNG.
        size: int, side of the result in pixels.
        seed: (2,) int32 or int64.
        min_area: smallest fraction of the image's area, in (0, 1].
        max_ratio: largest width / height, at least 1.
        flip: whether to flip horizontally at random.
        max_area: largest fraction of the image's area, in [min_area, 1].

    Returns:
        (size, size, 3) float32 in [0, 1].

    Reference: Szegedy et al. 2015, section 6, with the usual fallback to a centred window.
    """

    def window(choose):
        return _decode_window(encoded, choose)

    return _random_crop(window, size, seed, min_area, max_ratio, flip, max_area)


def random_crop_of_pixels(
    pixels, size, seed, min_area=0.08, max_ratio=4 / 3, flip=True, max_area=1.0
) -> tf.Tensor:
    """As `random_resized_crop`, of a decoded image: `pixels` (height, width, 3) uint8."""

    def window(choose):
        shape = tf.shape(pixels)
        return _cut(pixels, choose(shape[0], shape[1]))

    return _random_crop(window, size, seed, min_area, max_ratio, flip, max_area)


def decode(encoded) -> tf.Tensor:
    """(height, width, 3) uint8 of a JPEG or PNG, decoded as `random_resized_crop` does."""
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )


def random_window(height, width, uniform, min_area, max_ratio, max_area=1.0) -> tf.Tensor:
    """Chooses the window that `random_resized_crop` cuts.

    Args:
        height: () int32, pixels.
        width: () int32, pixels.
        uniform: (2 * tries + 2 or more,) float32 in [0, 1): areas, shapes, top, left.
        min_area, max_ratio, max_area: as for `random_resized_crop`.

    Returns:
        (4,) int32: top, left, height, width.
    """
    height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    area = height * width * (min_area + (max_area - min_area) * uniform[:_TRIES])
    ratio = tf.exp((2 * uniform[_TRIES : 2 * _TRIES] - 1) * math.log(max_ratio))
    heights, widths = tf.round(tf.sqrt(area / ratio)), tf.round(tf.sqrt(area * ratio))
    fits = (heights >= 1) & (widths >= 1) & (heights <= height) & (widths <= width)
    # The fallback follows the draws as one that always fits.
    fallback_height = tf.minimum(height, tf.round(width * max_ratio))
    fallback_width = tf.minimum(width, tf.round(height * max_ratio))
    first = tf.argmax(tf.concat([fits, [True]], 0), output_type=tf.int32)
    part_height = tf.concat([heights, [fallback_height]], 0)[first]
    part_width = tf.concat([widths, [fallback_width]], 0)[first]
    free = tf.stack([height - part_height, width - part_width])
    place = uniform[2 * _TRIES : 2 * _TRIES + 2]
    corner = tf.where(first < _TRIES, tf.floor(place * (free + 1)), tf.floor(free / 2))
    return tf.cast(tf.concat([corner, [part_height, part_width]], 0), tf.int32)


def center_crop(encoded, size, short_side, interpolation="bilinear") -> tf.Tensor:
    """Resizes the short side and cuts the centre.

    Args:
        encoded: () string, a JPEG or PNG.
        size: int, side of the result in pixels, at most `short_side`.
        short_side: int, length in pixels of the short side after resizing; 0 scales the whole image
            to a square.
        interpolation: a key of `KERNELS`; antialiased.

    Returns:
        (size, size, 3) float32 in [0, 1].
    """
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    if short_side:
        resized = tf.round(shape * (short_side / tf.reduce_min(shape)))
    else:
        resized = tf.constant([size, size], tf.float32)
    offset = tf.floor((resized - size) / 2)
    # One op scales the image and computes only the cropped pixels.
    kernel = KERNELS[interpolation]
    return _scale(image, size, scale=resized / shape, offset=offset, kernel=kernel)


def rotate(image, quarter_turns) -> tf.Tensor:
    """Rotates a square image counter-clockwise.

    Args:
        image: (size, size, channels), any type.
        quarter_turns: () int32, any integer; 1 is 90 degrees.

    Returns:
        The same shape and type.
    """
    turns = tf.math.floormod(quarter_turns, 4)
    swap = tf.equal(turns % 2, 1)
    turned = tf.transpose(image, tf.where(swap, [1, 0, 2], [0, 1, 2]))
    upside_down, mirrored = (turns == 1) | (turns == 2), turns >= 2
    turned = tf.raw_ops.Reverse(tensor=turned, dims=tf.stack([upside_down, mirrored, False]))
    return tf.ensure_shape(turned, image.shape)


def _random_crop(window, size, seed, min_area, max_ratio, flip, max_area):
    """The crop of what `window(choose)` returns; `choose` is as in `_decode_window`."""
    uniform = tf.random.stateless_uniform([2 * _TRIES + 3], seed, alg="philox")

    def choose(height, width):
        return random_window(height, width, uniform, min_area, max_ratio, max_area)

    image = _resize(window(choose), size)
    if flip:
        image = tf.raw_ops.Reverse(tensor=image, dims=[False, uniform[-1] < 0.5, False])
    return image


def _decode_window(encoded, choose):
    """Decodes the window (top, left, height, width) that `choose(height, width)` returns."""

    def from_jpeg():
        shape = tf.io.extract_jpeg_shape(encoded)
        return tf.io.decode_and_crop_jpeg(
            encoded, choose(shape[0], shape[1]), channels=3, dct_method="INTEGER_ACCURATE"
        )

    def from_others():
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        shape = tf.shape(image)
        return _cut(image, choose(shape[0], shape[1]))

    return tf.cond(tf.io.is_jpeg(encoded), from_jpeg, from_others)


def _cut(image, window):
    """The pixels of a window (top, left, height, width)."""
    begin, extent = tf.concat([window[:2], [0]], 0), tf.concat([window[2:], [3]], 0)
    return tf.slice(image, begin, extent)


def _resize(image, size):
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    return _scale(image, size, scale=size / shape, offset=[0.0, 0.0])


def _scale(image, size, scale, offset, kernel="triangle"):
    """Scales an image and cuts (size, size) at `offset` (top, left), in pixels of the result."""
    tall = tf.reshape(_scale_rows(image, size, scale[0], offset[0], kernel), [size, -1, 3])
    turned = tf.transpose(tall, [1, 0, 2])
    scaled = _scale_rows(turned, size, scale[1], offset[1], kernel)
    scaled = tf.transpose(tf.reshape(scaled, [size, size, 3]), [1, 0, 2])
    # The weights of a pixel's neighbours may exceed a sum of 1 by a rounding error, those of a
    # cubic kernel are partly negative.
    scaled = tf.minimum(scaled / 255.0, 1.0)
    return scaled if kernel == "triangle" else tf.maximum(scaled, 0.0)


def _scale_rows(image, size, scale, offset, kernel):
    """Scales and crops the height alone; (1, size, 1, width * channels) float32."""
    # A row is passed as the channels of one pixel, which the op adds as vectors: the two directions
    # one after the other take less than half the time of one call for both.
    return tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(image, [1, tf.shape(image)[0], 1, -1]),
        size=[size, 1],
        scale=tf.stack([scale, 1.0]),
        translation=tf.stack([-offset, 0.0]),
        kernel_type=kernel,
        antialias=True,
    )
