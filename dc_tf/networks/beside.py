"""How images are prepared, as a file beside a network states it.

    stated_beside("/models/theirs/model.onnx")      # (Preprocessing, "preprocessor_config.json")

Read are `preprocessor_config.json` of Hugging Face's transformers and `config.json` of timm. What
`Preprocessing` cannot do exactly is refused with the key that asks for it.
"""

import json
import math
import os

from dc_tf import text_files
from dc_tf.errors import ConfigError
from dc_tf.networks.preprocessing import INTERPOLATIONS, Preprocessing, from_dict

_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # PIL.Image.Resampling

# Image processors of transformers, by the beginning of their names.
_CONVNEXT = ("ConvNext",)
_BY_SHORT_SIDE = (*_CONVNEXT, "CLIP", "ChineseCLIP", "Bit", "MobileNet", "PoolFormer")
_BICUBIC = ("CLIP", "ChineseCLIP", "Bit", "PoolFormer", "DeiT", "Beit")
_OWN_ARITHMETIC = ("Levit",)  # which scales `size` by a factor that no key states
_CONVNEXT_CROP = 224 / 256
_CONVNEXT_WARPED = 384  # pixels, from which on the whole image is scaled to a square
_STEPS = ("resize", "center_crop", "rescale", "normalize", "convert_rgb", "flip_channel_order")
_OF_TARGETS = ("reduce_labels", "convert_annotations")  # which change no image


def stated_beside(path: str) -> tuple[Preprocessing, str] | None:
    """What a network's folder says, and the name of the file that says it; None if nothing does.

    Args:
        path: local file or folder of the network.

    Raises:
        ConfigError: the file asks for what cannot be done.
    """
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    for name, read in (("preprocessor_config.json", _of_transformers), ("config.json", _of_timm)):
        file = os.path.join(folder, name)
        stated = read(_json(file), file) if os.path.isfile(file) else None
        if stated:
            return from_dict(stated), name
    return None


def _json(path) -> dict:
    try:
        found = json.loads(text_files.read(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _of_transformers(stated, path) -> dict | None:
    """Settings of an image processor of transformers."""
    flips = stated.get("do_flip_channel_order", False)
    if "image_mean" not in stated and not flips:
        return None
    _check_steps(stated, path)
    values = _values(stated, path) | ({"order": "bgr"} if flips else {})
    resample = stated.get("resample", 3 if _is_one_of(stated, _BICUBIC) else 2)
    known = isinstance(resample, int) and 0 <= resample < len(_FILTERS)
    name = _FILTERS[resample] if known else resample
    values["interpolation"] = _interpolation(name, f"resample {resample}", path)
    return values | _frame(stated, path)


def _check_steps(stated, path):
    """Refuses steps that no Preprocessing has."""
    known = {f"do_{step}" for step in (*_STEPS, *_OF_TARGETS)}
    for key, value in stated.items():
        if key.startswith("do_") and value is True and key not in known:
            raise _unsupported(path, key)
    for key in ("include_top", "max_size"):  # EfficientNet's divides by the deviation twice
        if stated.get(key):
            raise _unsupported(path, key)
    if stated.get("do_resize", True) is False:
        raise _unsupported(path, "do_resize false")
    if _is_one_of(stated, _OWN_ARITHMETIC):
        raise _unsupported(path, _processor(stated))


def _values(stated, path) -> dict:
    """Settings of the values of pixels."""
    rescales = stated.get("do_rescale", True)
    found = {"scale": 255 * (stated.get("rescale_factor", 1 / 255) if rescales else 1.0)}
    below = 1.0 if rescales and (stated.get("rescale_offset") or stated.get("offset")) else 0.0
    if stated.get("do_normalize", True) and "image_mean" in stated:
        if stated.get("do_flip_channel_order"):
            raise _unsupported(path, "do_flip_channel_order with image_mean")
        mean = stated["image_mean"]
        mean = mean if isinstance(mean, list) else [mean]
        found |= {"mean": [value + below for value in mean], "deviation": stated["image_std"]}
    elif below:
        found["mean"] = [below]
    return found


def _frame(stated, path) -> dict:
    """Settings of size and crop."""
    if stated.get("size") is None and not stated.get("do_center_crop"):
        return {}
    side, by_short_side = _size(stated, path)
    cut = _cut(stated, path)
    share = stated.get("crop_pct")
    if by_short_side and _is_convnext(stated):
        if side >= _CONVNEXT_WARPED:
            return {"size": side, "crop": 0.0}
        return {"size": side, "short_side": int(side / (share or _CONVNEXT_CROP))}
    if share:
        side, by_short_side = int(side / share), True  # as PoolFormer's
    if by_short_side:
        if cut is None:
            raise _unsupported(path, "size.shortest_edge without do_center_crop")
        if cut > side:  # which is filled with zeros
            raise _unsupported(path, f"crop_size {cut} of images of {side}")
        return {"size": cut, "short_side": side}
    if cut not in (None, side):
        raise _unsupported(path, f"do_center_crop after a size of {side} x {side}")
    return {"size": side, "crop": 0.0}


def _size(stated, path) -> tuple[int, bool]:
    """(pixels, whether these are of the short side rather than of both)."""
    size = stated.get("size")
    if isinstance(size, dict):
        if set(size) == {"shortest_edge"}:
            return _pixels(size["shortest_edge"], "size.shortest_edge", path), True
        if set(size) == {"height", "width"} and size["height"] == size["width"]:
            return _pixels(size["height"], "size", path), False
        raise _unsupported(path, f"size {size}")
    pixels = _pixels(size, "size", path)  # of an older version, whose meaning is the processor's
    by_short_side = _is_one_of(stated, _BY_SHORT_SIDE)
    if not by_short_side and stated.get("do_center_crop") and not _processor(stated):
        raise _unsupported(
            path, f"size {size} with do_center_crop and without image_processor_type"
        )
    return pixels, by_short_side


def _cut(stated, path) -> int | None:
    """Side of the centre that is cut out; None without."""
    if not stated.get("do_center_crop"):
        return None
    cut = stated.get("crop_size")
    if isinstance(cut, dict):
        if set(cut) != {"height", "width"} or cut["height"] != cut["width"]:
            raise _unsupported(path, f"crop_size {cut}")
        cut = cut["height"]
    return _pixels(cut, "crop_size", path)


def _pixels(value, key, path) -> int:
    if isinstance(value, int | float) and value >= 1:
        return int(value)
    raise _unsupported(path, f"{key} {value}")


def _is_convnext(stated) -> bool:
    named = _processor(stated)
    return _is_one_of(stated, _CONVNEXT) or (
        not named and "crop_pct" in stated and not stated.get("do_center_crop")
    )


def _processor(stated) -> str:
    """Name of the class of transformers, "" if it is not stated."""
    return str(stated.get("image_processor_type") or stated.get("feature_extractor_type") or "")


def _is_one_of(stated, beginnings) -> bool:
    return _processor(stated).startswith(beginnings)


def _of_timm(stated, path) -> dict | None:
    """Settings of `pretrained_cfg` of timm."""
    stated = stated.get("pretrained_cfg", {})
    if not isinstance(stated, dict) or "mean" not in stated or "std" not in stated:
        return None
    found = {"mean": stated["mean"], "deviation": stated["std"]}
    name = stated.get("interpolation") or "bicubic"  # timm.data.resolve_data_config
    found["interpolation"] = _interpolation(name, f"interpolation {name}", path)
    crop, mode = stated.get("crop_pct") or 0.875, stated.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise _unsupported(path, f"crop_mode {mode}")
    found["crop"] = crop if mode == "center" else 0.0
    if "input_size" in stated:
        channels, height, width = stated["input_size"]
        if height != width or channels != 3:
            raise _unsupported(path, f"input_size {stated['input_size']}")
        found["size"] = height
        if mode == "center":
            found["short_side"] = math.floor(height / crop)  # timm.data.transforms_factory
    return found


def _interpolation(name, key, path) -> str:
    if name in INTERPOLATIONS:
        return name
    raise _unsupported(path, f"{key} ({name})" if str(name) not in key else key)


def _unsupported(path, what) -> ConfigError:
    return ConfigError(
        f"{path} asks for {what}, which cannot be done here exactly; give --preprocessing, which "
        "goes before the file, with the settings that come closest, such as "
        "--preprocessing=imagenet,size=224,crop=0.875,interpolation=bicubic."
    )
