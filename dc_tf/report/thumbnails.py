"""Small pictures of rows, read by row id when they are needed, as data URIs.

pictures = Thumbnails(dataset, side=84)
pictures.load([7, 0])
pictures[7].uri, pictures[7].text      # "data:image/webp;base64,...", "photos/7.jpg, cat"
"""

import base64
import concurrent.futures
import dataclasses
import io
import os
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from dc_tf.data.storage.metadata import text
from dc_tf.data.storage.reader import RowReader
from dc_tf.data.storage.schema import decode_example
from dc_tf.progress import Progress

_BLOCK = 256  # rows read together
_QUALITY = 68  # of WebP
_MAX_PIXELS = 100_000_000
_COLOUR_SIDE = 16  # an image's mean colour is that of a copy of so many pixels


@dataclasses.dataclass(frozen=True)
class Picture:
    """A thumbnail.

    Attributes:
        row: row id.
        uri: str, data URI; None if the image cannot be read.
        text: what it is, for people who do not see it: row, source, label.
    """

    row: int
    uri: str | None
    text: str


class Thumbnails:
    """Square thumbnails of some rows of a data set.

    Args:
        dataset: Dataset.
        side: pixels.
    """

    def __init__(self, dataset, side=84):
        self._dataset = dataset
        self._reader = RowReader(dataset)
        self._side = side
        self._loaded = {}

    def __getitem__(self, row) -> Picture:
        """The picture of a row that was loaded."""
        return self._loaded[int(row)]

    def load(self, rows, what="thumbnails") -> None:
        """Reads the rows that are not there yet; an unreadable one has no URI."""
        rows = np.setdiff1d(np.asarray(rows, np.int64), [*self._loaded])
        with Progress(len(rows), what, "images") as progress:
            for row, picture in decoded(self._dataset, self._reader, rows, self._picture):
                self._loaded[row] = picture or Picture(row, None, f"row {row}, unreadable")
                progress.update()

    def drop(self) -> None:
        """Forgets all pictures."""
        self._loaded = {}

    def _picture(self, row, example):
        image = open_image(example["encoded"], self._side)
        uri = image and encode(ImageOps.fit(image, (self._side, self._side)))
        return Picture(row, uri, _caption(row, example, self._dataset.class_names))


def decoded(dataset, reader, rows, use) -> Iterator:
    """Yields (row, what `use` makes of its example) in order; None for a corrupt row.

    Args:
        dataset: Dataset of the reader.
        reader: RowReader.
        rows: (n,) row ids.
        use: function (row, example) called in threads, since decoding images releases the lock.
    """
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK].tolist()
            records = reader.read(block, corrupt=b"")
            features = [dataset.features] * len(block)
            yield from zip(
                block, threads.map(_use, block, records, features, [use] * len(block)), strict=True
            )


def open_image(encoded, side) -> Image.Image | None:
    """An encoded image in RGB, of at least `side` pixels where it has them; None if unreadable."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.width * image.height > _MAX_PIXELS:
                return None
            image.draft("RGB", (2 * side, 2 * side))  # JPEG decodes smaller, which is faster
            return image.convert("RGB")
    except Exception:  # Pillow raises any exception on a corrupt image.
        return None


def encode(image, lossless=False) -> str:
    """A data URI of a Pillow image, as WebP."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=_QUALITY, lossless=lossless)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def mean_colour(encoded) -> np.ndarray | None:
    """(3,) float32 mean of an encoded image's red, green and blue, 0 to 255; None if unreadable."""
    image = open_image(encoded, _COLOUR_SIDE)
    if image is None:
        return None
    small = image.resize((_COLOUR_SIDE, _COLOUR_SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32).mean((0, 1))


def _use(row, record, features, use):
    try:
        example = decode_example(record, features)
    except ValueError:
        return None
    return use(row, example)


def _caption(row, example, class_names):
    parts = [f"row {row}", text(example["source"], 80) if example["source"] else ""]
    label = example["label"]
    if label is not None:
        named = class_names is not None and label < len(class_names)
        parts.append(class_names[label] if named else f"label {label}")
    return ", ".join(filter(None, parts))
