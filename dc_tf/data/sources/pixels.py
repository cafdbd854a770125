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

from dc_tf.data.sources.reasons import Unusable

_BITS = (8, 10, 12, 14, 16)
_SIGNED_BITS = (8, 10, 12, 14, 15)
_GREY_AND_ALPHA = "LA;16B"
# Layouts of 16-bit pixels, of which Pillow keeps the high bytes, and those that give the low bytes.
_OTHER_BYTES = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    _GREY_AND_ALPHA: "RGBA",  # high and low byte of grey, high and low byte of alpha
}
for _mode in ("RGB", "RGBA"):  # as the processor orders bytes
    _OTHER_BYTES[f"{_mode};16N"] = f"{_mode};16{'B' if sys.byteorder == 'little' else 'L'}"
_BITS_PER_SAMPLE, _LEAST, _MOST, _FORMAT, _SIGNED_LEAST, _SIGNED_MOST = 258, 280, 281, 339, 340, 341
_PHOTOMETRIC = 262  # 0: the lowest value is white
_SIGNED = 2  # value of _FORMAT
_FULL_RANGE = ("PPM",)  # Pillow scales these to all of 16 bits


class Depth:
    """What a file states about values of more than 8 bits; to be made before `image.load()`.

    Attributes:
        stated: (lowest, highest) value, or None.
        bits: numbers of bits to choose from where nothing is stated.
        low_bytes: function that decodes the low bytes of 16-bit colours, of which Pillow keeps the
            high bytes only: (height, width, channels) uint8; None for other images.
        inverted: whether the lowest value is white; Pillow inverts only 8 bits.
    """

    def __init__(self, image, data):
        self.stated, self.bits = _stated(image, data), _bits(image)
        self.low_bytes = _low_bytes(image, data)
        self.inverted = 0 in _numbers(getattr(image, "tag_v2", {}), _PHOTOMETRIC)


def to_8_bits(image, depth, value_range=None) -> Image.Image:
    """A loaded image as "RGB", or "L" if it is grey; transparent parts show white.

    Args:
        image: PIL image.
        depth: its Depth.
        value_range: (low, high) of the values of more than 8 bits that become 0 and 255; None: from
            the file.

    Raises:
        Unusable: the range is not known.
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
        raise Unusable("floating-point pixels without a finite value")
    least, most = float(finite.min()), float(finite.max())
    low, high = value_range or _range_of(least, most, depth, is_float)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low) if is_float else values
    pixels = _scaled(values, low, high)
    return 255 - pixels if depth.inverted else pixels


def _range_of(least, most, depth, is_float):
    if depth.stated is not None and depth.stated[0] <= least and most <= depth.stated[1]:
        return depth.stated
    if is_float and 0 <= least and most <= 1:
        return 0, 1
    if not is_float and 0 <= least and most < 1 << 16:
        return 0, _smallest(most, depth.bits)
    what = "floating-point" if is_float else "32-bit"
    raise Unusable(
        f"{what} pixels in {least:.6g}..{most:.6g}, whose range the file does not state; name it, "
        f"such as --value_range={least:.6g},{most:.6g}"
    )


def _from_16_bits(image, depth, value_range):
    """An image of 16-bit colours, from its high bytes and the range of its values."""
    colors = image.getextrema()[:3]
    if value_range is None and depth.stated is None and max(most for _, most in colors) >> 6:
        return image  # more than 14 bits: the high bytes are the picture
    values = np.asarray(image, np.uint16) << 8 | depth.low_bytes()
    tones, opacity = values[..., :3], values[..., 3:]
    low, high = value_range or _range_of(0, int(tones.max()), depth, False)
    parts = [_scaled(tones, low, high)]
    if opacity.size:
        parts.append(_scaled(opacity, 0, _smallest(int(opacity.max()), depth.bits)))
    return Image.fromarray(np.concatenate(parts, axis=-1), image.mode)


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
    """Function that returns (height, width, 3 or 4) uint8, or None; see `Depth`."""
    args = image.tile[0].args if len(image.tile) == 1 else None
    raw_mode = args[0] if isinstance(args, tuple) and args else args
    other = _OTHER_BYTES.get(raw_mode) if isinstance(raw_mode, str) else None
    if other is None or image.mode not in ("RGB", "RGBA"):
        return None

    def decoded():
        with Image.open(io.BytesIO(data)) as low:
            tile = low.tile[0]
            args = (other, *tile.args[1:]) if isinstance(tile.args, tuple) else other
            low.tile = [tile._replace(args=args)]
            low.load()
            pixels = np.asarray(low)
        return pixels[..., [1, 1, 1, 3]] if raw_mode == _GREY_AND_ALPHA else pixels

    return decoded
