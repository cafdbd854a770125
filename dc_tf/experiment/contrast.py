"""The loss that contrasts the views of an image with other images of the batch."""

import dataclasses

from dc_tf.experiment.need import need
from dc_tf.hyperparams import Config


@dataclasses.dataclass
class Contrast(Config):
    """The views of an image find each other in the batch; see `dc_tf.training.step.contrast`.

    Attributes:
        weight: share w of this loss in that of the stage, (1 - w) * heads + w * views; in [0, 1].
            0 trains without it, 1 without the heads.
        temperature: of the cosines between views.
    """

    weight: float = 0.0
    temperature: float = 0.2


def check_contrast(contrast: Contrast, place: str, stage) -> None:
    """Refuses what cannot work; raises ConfigError.

    Args:
        contrast: its settings.
        place: where they are, as in "stages[0].contrast".
        stage: experiment.Stage that has them.
    """
    weight, temperature = contrast.weight, contrast.temperature
    need(0 <= weight <= 1, f"{place}.weight", weight, "use [0, 1]")
    need(0 < temperature <= 100, f"{place}.temperature", temperature, "use (0, 100]")
    if not weight:
        return
    images = stage.batch_size // stage.super_classes // stage.accumulate
    for works, remedy in (
        (stage.projection.dim, "set projection.dim as well, as to 128"),
        (stage.views.global_views > 1, "set views.global_views to at least 2"),
        (images > 1, "use two images or more of each super-class in a batch"),
    ):
        need(works, f"{place}.weight", weight, f"{remedy}, or use 0")
