"""The views of an image: random crops of it, at the network's resolution and smaller.

    views = Views(global_views=2, local_views=6, local_size=96)
    images = make_views(encoded, seed, quarter_turns, size=224, min_area=0.14, views=views)
    images["image"], images["local_image"]       # (2, 224, 224, 3), (6, 96, 96, 3)

Each view has its own seed, derived from the image's; the first uses that of the image itself. All
have the image's rotation, since it is a label.
"""

import dataclasses
import functools

import tensorflow as tf

from dc_tf.data.input import augment
from dc_tf.data.input.photometric import Photometric, photometric
from dc_tf.seeds import derive


@dataclasses.dataclass(frozen=True)
class Views:
    """How many crops of an image, and of which parts of it.

    Attributes:
        global_views: crops at the size of the images.
        local_views: crops at `local_size`.
        local_size: their side in pixels.
        max_area: largest share of the image's area in a global view.
        local_min_area, local_max_area: smallest and largest share in a local view.
    """

    global_views: int = 1
    local_views: int = 0
    local_size: int = 0
    max_area: float = 1.0
    local_min_area: float = 0.05
    local_max_area: float = 0.14

    @property
    def count(self) -> int:
        return self.global_views + self.local_views


def make_views(
    encoded,
    seed,
    quarter_turns,
    size,
    min_area=0.08,
    max_ratio=4 / 3,
    flip=True,
    views=Views(),  # noqa: B008
    settings=Photometric(),  # noqa: B008
) -> dict[str, tf.Tensor]:
    """Crops, flips, changes the colours of and rotates each view of an image.

    Args:
        encoded: () string, a JPEG or PNG.
        seed: (2,) int32.
        quarter_turns: () int32.
        size: int, side of a global view in pixels.
        min_area, max_ratio, flip: as of `augment.random_resized_crop`, for the global views.
        views: Views.
        settings: Photometric.

    Returns:
        dict: image (size, size, 3) float32 in [0, 1], or (G, size, size, 3) where an image has
        several views; with local views also local_image (L, local_size, local_size, 3).
    """
    crop = _cropping(encoded, views)

    def view(index, side, areas):
        own = _seed_of_view(seed, index)
        image = crop(side, own, areas[0], max_ratio, flip, areas[1])
        return augment.rotate(photometric(image, own, settings), quarter_turns)

    of_global = functools.partial(view, side=size, areas=(min_area, views.max_area))
    if views.count == 1:
        return {"image": of_global(0)}
    images = {"image": tf.stack([of_global(v) for v in range(views.global_views)])}
    if views.local_views:
        areas = views.local_min_area, views.local_max_area
        locals_ = range(views.global_views, views.count)
        images["local_image"] = tf.stack([view(v, views.local_size, areas) for v in locals_])
    return images


def _cropping(encoded, views):
    """A function that crops the image; of several views the whole is decoded once.

    A JPEG's window needs all entropy-coded data before its last row, so each would decode most of
    the file again; `benchmarks/input.py` compares both (`views`, `views_by_window`).
    """
    if views.count == 1:
        return functools.partial(augment.random_resized_crop, encoded)
    return functools.partial(augment.random_crop_of_pixels, augment.decode(encoded))


def _seed_of_view(seed, index):
    if index == 0:
        return seed
    return tf.bitwise.bitwise_xor(seed, [derive("view", index, 0), derive("view", index, 1)])
