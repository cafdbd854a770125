"""Metadata of an exported model: `dc_tf.json` in the folder of the SavedModel.

read_metadata("/models/mine").settings["resolution"]
"""

import dataclasses
import json
import os

import tensorflow as tf

from dc_tf.errors import DataError
from dc_tf.exporting.input_range import AUTO
from dc_tf.exporting.no_model import METADATA, no_model
from dc_tf.nn.trunks import TRUNKS

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The contents of `dc_tf.json`.

    Attributes:
        settings: settings of the network, as `Trunk.settings`.
        folded: whether Sobel and the first convolution are one convolution.
        short_side: short side in pixels before the centre crop, as in training.
        weight_decay: L2 coefficient of `regularization_losses`.
        outputs: {layer: shape without the batch, at the network's resolution}.
        versions: {package: version}.
        format: version of the file's format.
        weights: `weights_digest` of the network; "" if not recorded.
        source: the model's origin, as given by the caller.
        input_range: of floats, see `input_range`.
        trunk: kind of the network, a name in `nn.trunks.TRUNKS`.
        classes: names of the classes of a classifier, by number; None of a network of features.
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
    input_range: str = AUTO
    trunk: str = "vgg16"
    classes: list[str] | None = None


def is_saved_model(path: str) -> bool:
    """Whether a folder contains a SavedModel."""
    return tf.io.gfile.exists(os.path.join(path, "saved_model.pb"))


def read_metadata(path: str) -> Metadata:
    """Reads `dc_tf.json` of an exported model.

    Raises:
        ConfigError: the path has no such file, so it is not an exported model.
        DataError: the file cannot be read, is corrupt or has another format.
    """
    file = os.path.join(path, METADATA)
    try:
        with tf.io.gfile.GFile(file) as f:
            values = json.load(f)
        if values["format"] != FORMAT:
            raise DataError(
                f"{file} has format {values['format']}, but this version of dc_tf reads format "
                f"{FORMAT}; use the version that exported the model."
            )
        metadata = Metadata(**values)
        if metadata.trunk not in TRUNKS:
            raise DataError(
                f"{file} is of a network {metadata.trunk!r}, but this version of dc_tf has "
                f"{', '.join(TRUNKS)}; use the version that exported the model."
            )
        return metadata
    except (tf.errors.NotFoundError, tf.errors.FailedPreconditionError) as error:
        raise no_model(path) from error
    except tf.errors.OpError as error:
        raise DataError(
            f"{file} cannot be read ({error.message}); check its permissions and the disk, or copy "
            "the model again."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is corrupt: {error!r}; export the model again.") from error


def write_metadata(path: str, metadata: Metadata) -> None:
    """Writes `dc_tf.json` into the folder of a SavedModel."""
    with tf.io.gfile.GFile(os.path.join(path, METADATA), "w") as f:
        f.write(json.dumps(dataclasses.asdict(metadata), indent=1) + "\n")


def default_short_side(resolution: int) -> int:
    """Short side in pixels for a resolution, in proportion to 256 for 224."""
    return round(resolution * 256 / 224)
