"""How images are prepared for a network of any origin, stated once.

    preprocessing = read("imagenet")
    preprocessing = read("clip,size=336")
    preprocessing = read("scale=255,mean=[124,117,104],order=bgr,size=227,crop=1")
    preprocessing.framed(256).short_side                      # 293 of imagenet

An image is scaled (antialiased) so that its short side has `short_side` pixels, or as
`crop` says, and its centre is cut out; with `crop=0` the whole image is scaled to a square. Values
are then `([0, 1] * scale - mean) / deviation`, of red, green and blue in this order; `order` and
`layout` say what the network gets. A preset is a set of these settings (`PRESETS`).
"""

import dataclasses
import os

from dc_tf import paths, settings
from dc_tf.errors import ConfigError

# Of the networks of torchvision and timm: mean and deviation of ImageNet's training images.
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)}
# https://github.com/openai/CLIP/blob/main/clip/clip.py, the transform of all its networks.
_CLIP = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "deviation": (0.26862954, 0.26130258, 0.27577711),
}
_HALF = {"mean": (0.5, 0.5, 0.5), "deviation": (0.5, 0.5, 0.5)}
PRESETS = {
    "0-1": {},
    "-1-1": _HALF,
    "0-255": {"scale": 255.0},
    "imagenet": _IMAGENET,
    "clip": {**_CLIP, "crop": 1.0, "interpolation": "bicubic"},
    "inception": _HALF,
    # keras.applications' `mode="caffe"`, of its VGG and ResNet (version 1).
    "caffe": {"scale": 255.0, "mean": (123.68, 116.779, 103.939), "order": "bgr"},
}
ORDERS = ("rgb", "bgr")
INTERPOLATIONS = ("bilinear", "bicubic")
LAYOUTS = ("auto", "channels_last", "channels_first")
_FILES = (".yaml", ".yml", ".json")
_COLOURS = 3


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What is done to an image.

    Attributes:
        size: side in pixels of what the network gets; 0 for the one that the network states.
        short_side: pixels of the short side before the centre is cut out; 0: as `crop` says.
        crop: share of the short side that is left; 0 scales the whole image to a square.
        interpolation: of scaling, "bilinear" or "bicubic".
        scale: the value of white, before mean and deviation.
        mean, deviation: one number, or one each for red, green and blue; () for 0 and 1.
        order: of the colours, "rgb" or "bgr".
        layout: "channels_last", "channels_first", or "auto" for that of the network's input.
    """

    size: int = 0
    short_side: int = 0
    crop: float = 0.875
    interpolation: str = "bilinear"
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    order: str = "rgb"
    layout: str = "auto"

    def __post_init__(self):
        known = {"order": ORDERS, "layout": LAYOUTS, "interpolation": INTERPOLATIONS}
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                value = getattr(self, name)
                raise ConfigError(f"{name} is {value!r}; use {' or '.join(choices)}.")
        if self.crop > 1:
            raise ConfigError(f"crop is {self.crop:g}; use a share up to 1, or 0 for no crop.")
        if self.scale <= 0:
            raise ConfigError(f"scale is {self.scale:g}; use 1 or 255.")
        for name in ("mean", "deviation"):
            if len(getattr(self, name)) not in (0, 1, _COLOURS):
                raise ConfigError(f"{name} is {getattr(self, name)}; use one number, or three.")
        if self.deviation and min(self.deviation) <= 0:
            raise ConfigError(f"deviation is {self.deviation}; use positive numbers.")

    def framed(self, size: int) -> "Preprocessing":
        """With the sizes in pixels for a network of this side; a `short_side` of 0 is no crop.

        Raises:
            ConfigError: the sizes contradict each other.
        """
        short_side = self.short_side or (round(size / self.crop) if self.crop else 0)
        if 0 < short_side < size:
            raise ConfigError(
                f"short_side is {short_side}; a crop of {size} pixels needs at least {size}."
            )
        return dataclasses.replace(self, size=size, short_side=short_side)

    def as_dict(self) -> dict:
        """JSON-able settings, of which `from_dict` makes the same."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }


def read(given: str) -> Preprocessing:
    """The preprocessing that a flag or an argument states.

    Args:
        given: name of a preset, settings ("size=224,scale=255"), both with a comma between them, or
            a YAML or JSON file of settings, in which `preset` names a preset.

    Raises:
        ConfigError: an unknown preset or setting, or an invalid value.
    """
    text = os.fspath(given).strip()
    if text.lower().endswith(_FILES) and "=" not in text:
        stated = settings.read([paths.expand(text)])
        return from_dict(_preset(stated.pop("preset", "0-1")) | stated)
    first, _, rest = text.partition(",")
    if "=" in first or first.startswith("{"):
        first, rest = "", text
    stated = settings.read((), [rest] if rest.strip() else [])
    return from_dict((_preset(first.strip()) if first else {}) | stated)


def from_dict(stated: dict) -> Preprocessing:
    """Of settings by name; raises ConfigError as `read`."""
    stated = dict(stated)
    for name in ("mean", "deviation"):
        if isinstance(stated.get(name), int | float):
            stated[name] = (stated[name],)
    try:
        return settings.build(Preprocessing, stated)
    except ConfigError as error:
        raise ConfigError(f"--preprocessing: {error}") from error


def _preset(name) -> dict:
    if name not in PRESETS:
        raise ConfigError(
            f"--preprocessing is {name!r}; use one of {', '.join(PRESETS)}, settings such as "
            "size=224,scale=255,mean=[124,117,104], or a YAML file."
        )
    return dict(PRESETS[name])
