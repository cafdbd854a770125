"""The sampler's draws: image, rotation, labels and augmentation seed of each."""

from typing import NamedTuple

import numpy as np


class Draws(NamedTuple):
    """One worker's images of a pre-training epoch, in order; arrays of equal length n.

    Attributes:
        row: (n,) int64 row ids.
        rotation: (n,) int32 quarter turns, counter-clockwise.
        super_id: (n,) int32 super-class.
        sub_id: (n,) int32 sub-class within the super-class; with C clusterings (n, C).
        seed: (n, 2) int32 augmentation seeds.
    """

    row: np.ndarray
    rotation: np.ndarray
    super_id: np.ndarray
    sub_id: np.ndarray
    seed: np.ndarray


class ImageDraws(NamedTuple):
    """Images without labels; `row`, `rotation` and `seed` as in `Draws`."""

    row: np.ndarray
    rotation: np.ndarray
    seed: np.ndarray


class LabelledDraws(NamedTuple):
    """Images with their classes; `row`, `rotation` and `seed` as in `Draws`.

    Attributes:
        label: (n,) int32.
    """

    row: np.ndarray
    rotation: np.ndarray
    label: np.ndarray
    seed: np.ndarray
