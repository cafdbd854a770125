"""What the network sees, and its first filters: Figure 8.

sobel_pictures(encoded, side=96)          # RGB, d/dx and d/dy as data URIs
filters_of(kernel)                        # one picture of all filters of conv1
"""

import dataclasses

import numpy as np
from PIL import Image, ImageOps

from dc_tf.report.thumbnails import encode, open_image

_SIDE = 160  # pixels of an image that is shown
_GAP = 1  # weights between two filters
_CELLS = 8, 24  # pixels of a weight
_WIDE = 420  # pixels, about, of all filters
_PER_ROW = 16
_MOST = 256  # filters


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A picture with its text for people who do not see it.

    Attributes:
        uri: data URI.
        text: str.
        name: of what is shown.
        width, height: pixels.
    """

    uri: str
    text: str
    name: str
    width: int
    height: int


def sobel_sheets(encoded) -> list[Sheet]:
    """An image and its two Sobel channels; [] if it cannot be read."""
    from dc_tf.nn.sobel import sobel_kernel  # brings Keras, which reports of k-means do without

    image = open_image(encoded, _SIDE)
    if image is None:
        return []
    side = min(_SIDE, *image.size)
    image = ImageOps.fit(image, (side, side))
    grey = np.pad(np.asarray(image, np.float32).mean(2) / 255, 1, mode="edge")
    sheets = [Sheet(encode(image), "the image in colour", "image", side, side)]
    for channel, name in enumerate(("horizontal gradient", "vertical gradient")):
        kernel = sobel_kernel()[:, :, 0, channel]
        found = sum(
            kernel[y, x] * grey[y : y + side, x : x + side] for y in range(3) for x in range(3)
        )
        scaled = np.clip(
            127.5 + 127.5 * found / max(1e-6, np.percentile(np.abs(found), 99)), 0, 255
        )
        picture = Image.fromarray(scaled.astype(np.uint8))
        sheets.append(Sheet(encode(picture.convert("RGB")), f"its {name}", name, side, side))
    return sheets


def filter_sheets(kernel) -> list[Sheet]:
    """The filters of the first convolution, one picture for each input channel, or one of RGB.

    Args:
        kernel: (h, w, channels, filters) float32; 2 channels after Sobel, 3 of RGB.
    """
    kernel = np.asarray(kernel, np.float32)[..., :_MOST]
    count = kernel.shape[-1]
    if kernel.shape[2] == 3:
        names, parts = ["red, green and blue"], [kernel]
    else:
        names = ["horizontal gradient", "vertical gradient"]
        parts = [kernel[:, :, channel : channel + 1] for channel in range(kernel.shape[2])]
    sheets = []
    for name, part in zip(names, parts, strict=True):
        image = _grid(part / max(1e-12, np.abs(part).max()))
        text = f"{count} filters of conv1, weights on {name}: grey is 0, light positive"
        sheets.append(Sheet(encode(image, lossless=True), text, name, image.width, image.height))
    return sheets


def _grid(filters):
    """One image of all (h, w, c, n) filters, in -1 to 1."""
    high, wide, channels, count = filters.shape
    rows, columns = -(-count // _PER_ROW), min(count, _PER_ROW)
    canvas = np.zeros((rows * (high + _GAP) - _GAP, columns * (wide + _GAP) - _GAP, 4), np.uint8)
    for number in range(count):
        y, x = (n * (s + _GAP) for n, s in zip(divmod(number, _PER_ROW), (high, wide), strict=True))
        values = np.uint8(127.5 + 127.5 * filters[..., number])
        canvas[y : y + high, x : x + wide, :3] = values  # a single channel is grey
        canvas[y : y + high, x : x + wide, 3] = 255
    cell = min(max(_WIDE // canvas.shape[1], _CELLS[0]), _CELLS[1])
    size = canvas.shape[1] * cell, canvas.shape[0] * cell
    return Image.fromarray(canvas, "RGBA").resize(size, Image.Resampling.NEAREST)
