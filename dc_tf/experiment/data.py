"""The data set of an experiment and the preprocessing of its images."""

import dataclasses

from dc_tf.experiment.need import need
from dc_tf.hyperparams import Config


@dataclasses.dataclass
class Data(Config):
    """The data set and the preprocessing of its images.

    Attributes:
        path: data set folder, written by `dc_tf convert` or `generate`.
        min_crop_area: smallest share of the image in a random crop.
        resize: short side, in pixels, before the centre crop from which features are extracted;
            0 means 256/224 of the resolution.
        flip: mirror half of the training images.
        max_bad_share: share of the rows that may be corrupt; in training, each is replaced by the
            next good one, logged with its shard and offset, and counted. With 0, the first is an
            error.
    """

    path: str = ""
    min_crop_area: float = 0.08
    resize: int = 0
    flip: bool = True
    max_bad_share: float = 0.001


def check_data(data: Data, resolution: int) -> None:
    """Refuses what cannot work; raises ConfigError.

    Args:
        data: its settings.
        resolution: of the model, in pixels.
    """
    need(data.path, "data.path", data.path, "set it to a folder written by 'dc_tf convert'")
    need(0 < data.min_crop_area <= 1, "data.min_crop_area", data.min_crop_area, "use (0, 1]")
    need(0 <= data.max_bad_share < 1, "data.max_bad_share", data.max_bad_share, "use [0, 1)")
    short_side = data.resize or resolution
    need(short_side >= resolution, "data.resize", short_side, "use 0 or >= model.resolution")
