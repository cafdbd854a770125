"""Pools a layer's features to one vector per image.

pool = grid_average("conv3", shape=(113, 113, 128), resolution=224)
vectors = pool(maps)           # (b, 113, 113, 128) -> (b, 8192)
"""

import math
from collections.abc import Callable

import tensorflow as tf

from dc_tf.errors import ConfigError
from dc_tf.evaluation.paper import by_convolution

MAX_FEATURES = 10_000
# Kernel and stride of the paper's linear classifiers at 224 pixels.
PAPER_KERNELS = by_convolution((18, 18, 14, 14, 9, 9, 9, 6, 6, 6, 3, 3, 3))
PAPER_RESOLUTION = 224


def cell_average(cells: int = 1) -> Callable:
    """Average pooling of maps to `cells` x `cells` cells, or to as many as the map has pixels.

    Vectors are unchanged (fc7 of VGG-16 before ReLU, as in clustering).
    """

    def pool(maps):
        if len(maps.shape) == 2:
            return tf.identity(maps)
        kernel = max(1, maps.shape[1] // cells)
        pooled = tf.nn.avg_pool2d(maps, kernel, kernel, "VALID")[:, :cells, :cells]
        return tf.reshape(pooled, [-1, math.prod(pooled.shape[1:])])

    return pool


def grid_average(
    layer: str, shape, resolution: int, max_features=MAX_FEATURES, kernels=PAPER_KERNELS
) -> Callable:
    """Average pooling without padding to fewer than `max_features` dimensions, then flattening.

    The kernel (and stride) is the paper's for its network at its resolution, else the smallest that
    meets the bound. Vectors are taken after ReLU.

    Args:
        layer: name of the layer.
        shape: shape of one image's features, (h, w, c) or (d,).
        resolution: side of the network's input in pixels.
        max_features: bound on the number of dimensions.
        kernels: {layer: kernel} at PAPER_RESOLUTION; {} for another network than the paper's.

    Raises:
        ConfigError: no kernel meets `max_features`.
    """
    if len(shape) == 1:
        return tf.nn.relu
    kernel = grid_kernel(layer, shape, resolution, max_features, kernels)

    def pool(maps):
        pooled = tf.nn.avg_pool2d(maps, kernel, kernel, "VALID")
        return tf.reshape(pooled, [-1, math.prod(pooled.shape[1:])])

    return pool


def grid_kernel(
    layer: str, shape, resolution: int, max_features=MAX_FEATURES, kernels=PAPER_KERNELS
) -> int:
    """Kernel and stride of `grid_average` for a (side, side, channels) map."""
    side, _, channels = shape
    if resolution == PAPER_RESOLUTION and layer in kernels:
        kernel = kernels[layer]
        if (side // kernel) ** 2 * channels < max_features:
            return kernel
    for kernel in range(1, side + 1):
        if (side // kernel) ** 2 * channels < max_features:
            return kernel
    raise ConfigError(
        f"max_features is {max_features}; {layer} has {channels} channels, so use more than that."
    )
