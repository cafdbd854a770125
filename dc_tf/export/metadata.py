"""What an exported model says of itself: `dc_tf.json` beside the SavedModel.

read_metadata("/models/mine").settings["resolution"]
"""

import dataclasses
import json
import os

import tensorflow as tf

from dc_tf.errors import DataError

METADATA = "dc_tf.json"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What `dc_tf.json` says of an exported model.

    Attributes:
        settings: of `VGG16`: width, resolution, fc, sobel.
        folded: Sobel and conv1 are one 5x5 convolution.
        short_side: of images before the centre crop, in pixels, as in training.
        weight_decay: L2 coefficient that `regularization_losses` stand for.
        outputs: {layer: shape without the batch, at the network's resolution}.
        versions: {package: version}.
        format: of this file.
        weights: names the network by the values of its weights; "" where a model does not say.
        source: whatever the caller says of the model's origin.
    """

    settings: dict
    folded: bool
    short_side: int
    weight_decay: float
    outputs: dict
    versions: dict
    format: int = FORMAT
    weights: str = ""
    source: dict = dataclasses.field(default_factory=dict)


def read_metadata(path: str) -> Metadata:
    """What `dc_tf.json` of an exported model says.

    Raises:
        DataError: missing, damaged or of another format.
    """
    file = os.path.join(path, METADATA)
    try:
        with tf.io.gfile.GFile(file) as f:
            values = json.load(f)
        if values["format"] != FORMAT:
            raise DataError(f"{file} has format {values['format']}; this program reads {FORMAT}.")
        return Metadata(**values)
    except tf.errors.OpError as error:
        raise DataError(
            f"{path!r} is no model of 'dc_tf export': {METADATA} is not readable."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged: {error!r}.") from error


def write_metadata(path: str, metadata: Metadata):
    """Writes `dc_tf.json` into the folder of a SavedModel."""
    with tf.io.gfile.GFile(os.path.join(path, METADATA), "w") as f:
        f.write(json.dumps(dataclasses.asdict(metadata), indent=1) + "\n")


def default_short_side(resolution: int) -> int:
    """Pixels: 256 for 224, and in proportion."""
    return round(resolution * 256 / 224)
