"""The network that made some features, to embed further images in the same way.

network = network_of(features)
vectors = embed_images(network, features, [jpeg_bytes])        # (1, features.dim) float32
"""

import os

import numpy as np
import tensorflow as tf

from dc_tf import experiment
from dc_tf.data.input.augment import center_crop
from dc_tf.data.sources.image_files import Rules, clean
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.frozen.features import cell_extractor
from dc_tf.evaluation.models import FrozenModel, reopen
from dc_tf.run_dir import RunDir


def network_of(features, model=None) -> FrozenModel:
    """The network whose weights made the features.

    Args:
        features: Features.
        model: run or SavedModel, where the recorded path leads nowhere; None takes the recorded.

    Raises:
        ConfigError: no network is recorded, or the one that is found has other weights.
        DataError: a corrupt model.
    """
    if not features.about:
        raise ConfigError(
            f"--features={features.path} does not record which network made it, so images cannot "
            "be embedded in the same way; give row ids as --query."
        )
    path = model or features.model
    try:
        network = reopen(path, features.about, features.layer)
    except ConfigError as error:
        raise ConfigError(f"{error} Name what made {features.path} with --model.") from error
    for stage in ["", *_stages(path)]:
        network = network if not stage else _at_end_of(path, features, stage)
        if network and network.weights == features.about["weights"]:
            return network
    raise ConfigError(
        f"{path} has other weights than the network that made {features.path}; embed again, or "
        "name that network with --model."
    )


def embed_images(network, features, images) -> np.ndarray:
    """Features of encoded images, as those of the rows.

    Args:
        network: FrozenModel of `network_of`.
        features: Features.
        images: list of bytes, JPEG or PNG.

    Returns:
        (n, dim) float32.
    """
    about = features.about
    how = {"cells": about.get("cells", 1), "mirror": about.get("mirror", False)}
    extractor = cell_extractor(network.trunk, (features.layer,), **how)
    short_side = about.get("short_side", network.short_side)
    how = network.resolution, short_side, network.interpolation
    crops = [center_crop(image, *how) for image in images]
    return extractor(tf.stack(crops))[features.layer].numpy().astype(np.float32)


def read_image(path) -> bytes:
    """An image file as `dc_tf convert` would store it: an upright RGB JPEG or PNG.

    Args:
        path: of a file of any format that Pillow reads; or bytes, its content.

    Raises:
        DataError: it is no image that can be used; says why.
    """
    cleaned = clean(path, Rules())
    if cleaned.encoded is None:
        name = "the image" if isinstance(path, bytes) else path
        raise DataError(f"{name} cannot be used as a query: {cleaned.reason}.")
    return cleaned.encoded


def _stages(path):
    """Names of the stages of a run; features may be of the end of one. None of other networks."""
    if "://" in path or not os.path.isfile(RunDir(path).config):
        return []
    config = RunDir(path).config
    return [stage.name for stage in experiment.load([config]).stages]


def _at_end_of(path, features, stage):
    try:
        return reopen(path, features.about, features.layer, stage)
    except DataError:  # a stage that has not ended
        return None
