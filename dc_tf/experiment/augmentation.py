"""How a stage changes the colours of its images, and the views it takes of each."""

import dataclasses

from dc_tf.experiment.data import Data
from dc_tf.experiment.model import Model
from dc_tf.experiment.need import need
from dc_tf.hyperparams import Config
from dc_tf.nn.trunks import TRUNKS


@dataclasses.dataclass
class Augmentation(Config):
    """Photometric augmentation, after crop and flip; see `dc_tf.data.input.photometric`.

    SimCLR and SwAV use 1.0, 0.2, 0.5 and 0.

    Attributes:
        jitter: strength of the colour jitter, applied with probability 0.8: brightness, contrast
            and saturation change by up to 0.8 of it, the hue by 0.2 of it.
        greyscale: probability that an image becomes grey.
        blur: probability of a Gaussian blur, of a deviation of 0.1 to 2 pixels.
        solarise: probability that values above 1/2 are inverted.
    """

    jitter: float = 0.0
    greyscale: float = 0.0
    blur: float = 0.0
    solarise: float = 0.0


@dataclasses.dataclass
class Views(Config):
    """Random crops of an image in one step; each predicts the image's labels.

    SwAV takes 2 global views of 0.14 to 1 of the area and 6 local ones of 96 pixels.

    Attributes:
        global_views: at the model's resolution.
        local_views: at `local_size`; 0 for none.
        local_size: their side in pixels; with VGG-16 the resolution, since it has fully connected
            layers.
        global_min_area: smallest share of the image in a global view; 0 means
            `data.min_crop_area`.
        global_max_area: largest share of the image in a global view.
        local_min_area, local_max_area: smallest and largest share in a local view.
    """

    global_views: int = 1
    local_views: int = 0
    local_size: int = 0
    global_min_area: float = 0.0
    global_max_area: float = 1.0
    local_min_area: float = 0.05
    local_max_area: float = 0.14

    @property
    def count(self) -> int:
        """Views of an image in a step."""
        return self.global_views + self.local_views

    @property
    def passes(self) -> int:
        """Passes of the trunk in a step: over the global views, and over the local ones."""
        return 2 if self.local_views else 1

    def sizes(self, resolution: int) -> list[tuple[int, int]]:
        """(side in pixels, number of views) of each pass."""
        local = [(self.local_size, self.local_views)] if self.local_views else []
        return [(resolution, self.global_views), *local]

    def relative_cost(self, resolution: int) -> float:
        """Pixels of all views of an image in those of one at `resolution`."""
        return sum(count * (side / resolution) ** 2 for side, count in self.sizes(resolution))


def check_augmentation(augmentation: Augmentation, place: str) -> None:
    """Refuses what cannot work; raises ConfigError.

    Args:
        augmentation: its settings.
        place: where they are, as in "stages[0].augmentation".
    """
    jitter = augmentation.jitter
    need(0 <= jitter <= 10, f"{place}.jitter", jitter, "use 0 to 10")
    for setting in ("greyscale", "blur", "solarise"):
        value = getattr(augmentation, setting)
        need(0 <= value <= 1, f"{place}.{setting}", value, "use a probability, [0, 1]")


def check_views(views: Views, place: str, data: Data, model: Model) -> None:
    """Refuses what cannot work; raises ConfigError.

    Args:
        views: their settings.
        place: where they are, as in "stages[0].views".
        data: settings of the images.
        model: settings of the network.
    """

    def name(setting):
        return f"{place}.{setting}"

    most = 100
    need(1 <= views.global_views <= most, name("global_views"), views.global_views, "use 1 to 100")
    need(0 <= views.local_views <= most, name("local_views"), views.local_views, "use 0 to 100")
    least = views.global_min_area or data.min_crop_area
    for kind, low, high in (
        ("global", least, views.global_max_area),
        ("local", views.local_min_area, views.local_max_area),
    ):
        given = views.global_min_area if kind == "global" else low
        need(0 < low <= 1, name(f"{kind}_min_area"), given, "use (0, 1]")
        works = f"use {low} (the smallest area) to 1"
        need(low <= high <= 1, name(f"{kind}_max_area"), high, works)
    _check_local_size(views, name("local_size"), model)


def _check_local_size(views, name, model):
    size, resolution = views.local_size, model.resolution
    if not views.local_views:
        return
    if model.fixed_size:
        works = f"use model.resolution = {resolution}, the only size of this trunk"
        need(size == resolution, name, size, works)
    least = TRUNKS[model.trunk].smallest[model.stem]
    works = f"use {least} to model.resolution = {resolution}"
    need(least <= size <= resolution, name, size, works)
