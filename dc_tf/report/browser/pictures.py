"""Pictures and records of rows, read from the shards when they are looked at.

    pictures = Pictures(dataset)
    pictures.thumbnail(7), pictures.picture(7)          # bytes of a JPEG
    pictures.records([7, 0])[0].title

Images are decoded and written again, so a browser never gets bytes of others. Thumbnails are kept
in memory up to a bound.
"""

import collections
import dataclasses
import io
import os
import threading

from PIL import Image, ImageDraw, ImageOps

from dc_tf.data.storage.metadata import text
from dc_tf.data.storage.reader import RowReader
from dc_tf.data.storage.schema import decode_example
from dc_tf.report.thumbnails import open_image

THUMBNAIL, PICTURE = 192, 1280  # pixels; the second is of the longer side
_CACHE_BYTES = 64 << 20
_QUALITY = 82
_GREY, _DARK = (128, 128, 128), (88, 88, 88)


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of a row, without its picture.

    Attributes:
        row: row id.
        source: str; "" where it is not known.
        label: int, or None.
        label_name: str; "" without a label.
        meta: {name: value or list}.
        readable: whether the record could be read.
    """

    row: int
    source: str = ""
    label: int | None = None
    label_name: str = ""
    meta: dict = dataclasses.field(default_factory=dict)
    readable: bool = True

    @property
    def title(self) -> str:
        """The last part of the source, or the row id."""
        return os.path.basename(self.source.rstrip("/")) or f"row {self.row}"

    @property
    def caption(self) -> str:
        """What the picture is, for those who do not see it."""
        if not self.readable:
            return f"row {self.row}, unreadable"
        return ", ".join(filter(None, [f"row {self.row}", self.source, self.label_name]))


class Pictures:
    """Pictures of the rows of a data set; safe to use from several threads.

    Args:
        dataset: Dataset.
        cache_bytes: of thumbnails in memory.
    """

    def __init__(self, dataset, cache_bytes=_CACHE_BYTES):
        self._dataset = dataset
        self._reader = RowReader(dataset)
        self._thumbnails = _Cache(cache_bytes)

    def thumbnail(self, row: int) -> bytes:
        """A square JPEG; grey with a cross for an image that cannot be read."""
        found = self._thumbnails.get(row)
        if found is None:
            image = self._open(row, THUMBNAIL)
            found = jpeg(ImageOps.fit(image, (THUMBNAIL, THUMBNAIL)) if image else _unreadable())
            self._thumbnails.put(row, found)
        return found

    def picture(self, row: int) -> bytes:
        """The image as a JPEG of at most `PICTURE` pixels a side."""
        image = self._open(row, PICTURE)
        if image is not None:
            image.thumbnail((PICTURE, PICTURE))
        return jpeg(image or _unreadable())

    def records(self, rows) -> list[Record]:
        """The records of rows, (n,) integers."""
        rows = [int(row) for row in rows]
        return [self._record(row, record) for row, record in self._read(rows)]

    def size(self, row: int) -> tuple[int, int] | None:
        """Width and height of the stored image; None if it cannot be read."""
        ((_, example),) = self._read([row])
        try:
            with Image.open(io.BytesIO(example["encoded"])) as image:
                return image.size
        except Exception:  # Pillow raises any exception on a corrupt image.
            return None

    def name_of(self, label: int | None) -> str:
        """The name of a class; "label 7" for one without a name, "" for None and -1."""
        names = self._dataset.class_names
        if label is None or label < 0:
            return ""
        return text(names[label], 100) if names and label < len(names) else f"label {label}"

    def _open(self, row, side):
        ((_, example),) = self._read([row])
        return example and open_image(example["encoded"], side)

    def _read(self, rows):
        """[(row, decoded example or None)]."""
        records = self._reader.read(rows, corrupt=b"")
        return [(row, self._decoded(record)) for row, record in zip(rows, records, strict=True)]

    def _decoded(self, record):
        try:
            return decode_example(record, self._dataset.features)
        except ValueError:
            return None

    def _record(self, row, example):
        if example is None:
            return Record(row, readable=False)
        meta = {text(name, 100): _shown(value) for name, value in example["meta"].items()}
        label = example["label"]
        return Record(row, text(example["source"], 500), label, self.name_of(label), meta)


def jpeg(image) -> bytes:
    """The bytes of a Pillow image as a JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def thumbnail_of(encoded: bytes) -> bytes:
    """A square JPEG of an encoded image."""
    image = open_image(encoded, THUMBNAIL)
    return jpeg(ImageOps.fit(image, (THUMBNAIL, THUMBNAIL)) if image else _unreadable())


def _shown(value):
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return text(value) if isinstance(value, str) else value


def _unreadable():
    image = Image.new("RGB", (THUMBNAIL, THUMBNAIL), _GREY)
    low, high = THUMBNAIL // 3, THUMBNAIL - THUMBNAIL // 3
    drawing = ImageDraw.Draw(image)
    drawing.line([(low, low), (high, high)], _DARK, 6)
    drawing.line([(low, high), (high, low)], _DARK, 6)
    return image


class _Cache:
    """The values that were used last, up to some bytes."""

    def __init__(self, most):
        self._most, self._bytes = most, 0
        self._values = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key):
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key, value):
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self._bytes += len(value)
            while self._bytes > self._most:
                _, old = self._values.popitem(last=False)
                self._bytes -= len(old)
