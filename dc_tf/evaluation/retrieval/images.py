"""Reads image files scaled to a longest side and optionally cropped, with prefetching.

for row, image in scaled_images(requests, longest_side=1024):   # (h, w, 3) float32 in [0, 1]
    ...
"""

import collections
import concurrent.futures
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from dc_tf.data.sources.image_files import Rules, clean
from dc_tf.errors import DataError

MIN_SIDE = 14  # pixels; the last convolution's map then has one pixel
_THREADS = 4
_AHEAD = 8  # prefetched images


def scaled_images(requests, longest_side) -> Iterator[tuple]:
    """Yields (row, image) in order; for an unusable file, a DataError in place of the image.

    Args:
        requests: list of (row, path, box or None), see `scaled_image`.
        longest_side: pixels.
    """
    waiting = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for row, path, box in requests:
            waiting.append((row, pool.submit(_image_or_error, path, box, longest_side)))
            if len(waiting) >= _AHEAD:
                row, image = waiting.popleft()
                yield row, image.result()
        for row, image in waiting:
            yield row, image.result()


def scaled_image(path: str, box, longest_side: int) -> np.ndarray:
    """An image, or a crop of it, at the scale that gives the whole image the longest side.

    Args:
        path: image file in any common format.
        box: (left, top, right, bottom) in pixels of the upright image, clipped to it; None for the
            whole image.
        longest_side: pixels.

    Returns:
        (h, w, 3) float32 in [0, 1], no side below MIN_SIDE; bilinear, antialiased.

    Raises:
        DataError: the file is missing or corrupt, or the box is outside the image.
    """
    encoded, reason, _ = clean(path, Rules())
    if reason:
        # The reason says what would help.
        raise DataError(f"the image {path} cannot be used: {reason}.")
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    height, width = image.shape[:2]
    scale = longest_side / max(height, width)
    if box is not None:
        left, top = (max(0, int(np.floor(value))) for value in box[:2])
        right, bottom = int(np.ceil(min(box[2], width))), int(np.ceil(min(box[3], height)))
        if left >= right or top >= bottom:
            raise DataError(f"the box {box} is outside {path}, which has {width}x{height} pixels.")
        image = image[top:bottom, left:right]
    size = [max(MIN_SIDE, round(side * scale)) for side in image.shape[:2]]
    scaled = tf.image.resize(image, size, antialias=True) / 255.0
    return np.clip(scaled.numpy(), 0.0, 1.0)


def _image_or_error(path, box, longest_side):
    try:
        return scaled_image(path, box, longest_side)
    except DataError as error:
        return error
    except tf.errors.OpError as error:
        return DataError(
            f"the image {path} cannot be decoded ({error.message}); save it again as PNG."
        )
