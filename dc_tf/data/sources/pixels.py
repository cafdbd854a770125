"""Converts decoded images of any mode to 8 bits per channel.

    depth = Depth(image, data)                   # before image.load()
    image.load()
    to_8_bits(image, depth)                      # "RGB" or "L"
    to_8_bits(image, depth, value_range=(0, 4095))

Pixels of more than 8 bits are scaled from a range to 0..255. The range is what the caller or the
file states; else 0..1 for floats, and for integers the smallest of `_BITS` that holds the largest
value, since cameras of 10, 12 or 14 bits write 16.
"""

import io
import struct
import sys

import numpy as np
from PIL import Image

_BITS = (8, 10, 12, 14, 16)
_SIGNED_BITS = (8, 10, 12, 14, 15)
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_DEEP_MODES = ("L", "LA", "RGB", "RGBA", "RGBX")
_BITS_PER_SAMPLE, _LEAST, _MOST, _FORMAT, _SIGNED_LEAST, _SIGNED_MOST = 258, 280, 281, 339, 340, 341
_SIGNED = 2  # value of _FORMAT
_FULL_RANGE = ("PPM", "JPEG2000")  # Pillow scales these to all of 16 bits


class Depth:
    """What a file states about values of more than 8 bits; to be made before `image.load()`.

    Attributes:
        stated: (lowest, highest) value, or None.
        bits: numbers of bits to choose from where nothing is stated.
        low_bytes: function that decodes the low bytes of 16-bit channels, of which Pillow keeps the
            high bytes only; None for other images.
    """

    def __init__(self, image, data):
        self.stated, self.bits = _stated(image, data), _bits(image)
        self.low_bytes = _low_bytes(image, data)


def to_8_bits(image, depth, value_range=None) -> Image.Image:
    """A loaded image as "RGB", or "L" if it is grey; transparent parts show white.

    Args:
        image: PIL image.
        depth: its Depth.
        value_range: (low, high) of the values of more than 8 bits that become 0 and 255; None: from
            the file.

    Raises:
        ValueError: the range is not known.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_scaled_numbers(image, depth, value_range))
    if depth.low_bytes is not None:
        image = _from_16_bits(image, depth, value_range)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")


def _scaled_numbers(image, depth, value_range):
    """(height, width) uint8 of an image of integers or floats."""
    is_float = image.mode == "F"
    values = np.asarray(image if is_float else image.convert("I"), np.float32 if is_float else None)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("floating-point pixels without a finite value")
    least, most = float(finite.min()), float(finite.max())
    low, high = value_range or _range_of(least, most, depth, is_float)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low) if is_float else values
    return _scaled(values, low, high)


def _range_of(least, most, depth, is_float):
    if depth.stated is not None and depth.stated[0] <= least and most <= depth.stated[1]:
        return depth.stated
    if is_float and 0 <= least and most <= 1:
        return 0, 1
    if not is_float and 0 <= least and most < 1 << 16:
        return 0, _smallest(most, depth.bits)
    what = "floating-point" if is_float else "32-bit"
    raise ValueError(
        f"{what} pixels in {least:.6g}..{most:.6g}, whose range the file does not state; name it, "
        f"such as --value_range={least:.6g},{most:.6g}"
    )


def _from_16_bits(image, depth, value_range):
    """An image of 16-bit channels, from its high bytes and the range of its values."""
    colors = image.getextrema()
    colors = [colors] if image.mode == "L" else list(colors)
    alpha = image.mode in ("LA", "RGBA")
    highest = max(most for _, most in (colors[:-1] if alpha else colors))
    if value_range is None and depth.stated is None and highest >> 6:
        return image  # more than 14 bits: the high bytes are the picture
    values = np.asarray(image, np.uint16) << 8 | np.asarray(depth.low_bytes(image.mode), np.uint16)
    values = values[..., None] if values.ndim == 2 else values
    tones, opacity = (values[..., :-1], values[..., -1:]) if alpha else (values, None)
    most = int(tones.max())
    low, high = value_range or _range_of(0, most, depth, False)
    parts = [_scaled(tones, low, high)]
    if alpha:
        parts.append(_scaled(opacity, 0, _smallest(int(opacity.max()), depth.bits)))
    pixels = np.concatenate(parts, axis=-1)
    result = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, image.mode)
    result.info = image.info
    return result


def _scaled(values, low, high):
    scaled = (values.astype(np.float32) - low) * (255 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _smallest(most, bits):
    """The largest value of the fewest bits that hold `most`."""
    return (1 << next((number for number in bits if most < 1 << number), 16)) - 1


def _bits(image):
    tags = getattr(image, "tag_v2", {})
    return _SIGNED_BITS if _SIGNED in _numbers(tags, _FORMAT) else _BITS


def _stated(image, data):
    """The (lowest, highest) value that a file states, or None."""
    if image.format in _FULL_RANGE:
        return 0, 65535
    if image.format == "PNG":
        bits = _significant_bits(data)
        return (0, (1 << bits) - 1) if bits else None
    tags = getattr(image, "tag_v2", None)
    return _stated_by_tags(tags) if tags is not None else None


def _stated_by_tags(tags):
    for least, most in ((_SIGNED_LEAST, _SIGNED_MOST), (_LEAST, _MOST)):
        if highest := _numbers(tags, most):
            lowest = _numbers(tags, least) or [0]
            if max(highest) > min(lowest):
                return min(lowest), max(highest)
    bits = _numbers(tags, _BITS_PER_SAMPLE)
    if bits and max(bits) not in (8, 16, 32, 64):
        return 0, (1 << max(bits)) - 1
    return None


def _numbers(tags, tag):
    """The values of a TIFF tag as a list of floats, empty without."""
    values = tags.get(tag)
    values = values if isinstance(values, tuple) else (values,)
    return [float(v) if isinstance(v, float) else int(v) for v in values if v is not None]


def _significant_bits(data):
    """The most significant bits of a channel that a PNG states, below 16; else 0."""
    at = data.find(b"sBIT", 0, 4096)
    if at < 4:
        return 0
    (length,) = struct.unpack_from(">I", data, at - 4)
    bits = max(data[at + 4 : at + 4 + min(length, 3)], default=0)
    return bits if bits < 16 else 0


def _low_bytes(image, data):
    if len(image.tile) != 1:
        return None
    args = image.tile[0].args
    raw_mode = args[0] if isinstance(args, tuple) and args else args
    if not isinstance(raw_mode, str) or raw_mode[-4:-1] != ";16" or raw_mode[-1] not in _OTHER_BYTE:
        return None
    if raw_mode[:-4] not in _DEEP_MODES or not image.mode.startswith(raw_mode[:-4][:1]):
        return None

    def decode(mode):
        other = raw_mode[:-1] + _OTHER_BYTE[raw_mode[-1]]
        with Image.open(io.BytesIO(data)) as low:
            tile = low.tile[0]
            args = (other, *tile.args[1:]) if isinstance(tile.args, tuple) else other
            low.tile = [tile._replace(args=args)]
            low.load()
            return low if low.mode == mode else low.convert(mode)

    return decode
