"""Labels, metadata and mean colours of the rows that a report reads, in one streamed pass.

    found = read(dataset, rows, coloured=rows[:20_000])
    found.columns["hashtags"].texts[code], found.colours

A column keeps integers, one for each value of an image; its texts are kept once. Places are cells
of one degree of latitude and longitude. Columns of measurements and of texts that nearly every
image has for itself say nothing about clusters and are left out.
"""

import array
import dataclasses
import math

import numpy as np

from dc_tf.data.storage.metadata import text
from dc_tf.data.storage.reader import RowReader
from dc_tf.evaluation.clusters.nmi import LABEL, PLACE
from dc_tf.progress import Progress
from dc_tf.report.thumbnails import decoded, mean_colour

_LATITUDE, _LONGITUDE = "latitude", "longitude"
_TEXT = 80  # characters of a value
_OWN = 0.5  # share of distinct values from which on a column is of texts of single images
_FEW = 20  # fewer images do not show that
_ITEMS = 100  # values of an image in a column
_MOST = 64  # columns that are kept; records of strangers may name a new one in each image


@dataclasses.dataclass(frozen=True)
class Column:
    """Values of one column.

    Attributes:
        name: "label", "place", or the name of metadata.
        images: (v,) int32, positions in the rows, ascending; an image may have several values.
        codes: (v,) int32, number of the value.
        texts: list of str by number.
    """

    name: str
    images: np.ndarray
    codes: np.ndarray
    texts: list

    def known(self) -> int:
        """Number of images with a value."""
        return len(np.unique(self.images))

    def rarest(self, count) -> np.ndarray:
        """(count,) int32 number of each image's rarest value, -1 without one."""
        times = np.bincount(self.codes, minlength=len(self.texts))
        order = np.lexsort([self.codes, times[self.codes]])[::-1]
        chosen = np.full(count, -1, np.int32)
        chosen[self.images[order]] = self.codes[order]  # the rarest is assigned last
        return chosen


@dataclasses.dataclass(frozen=True)
class Found:
    """What was read.

    Attributes:
        rows: (n,) int64 row ids.
        columns: {name: Column}, the label first.
        left_out: names of columns that say nothing about clusters.
        corrupt: number of rows that could not be read.
        colours: (n, 3) float32, mean colour in 0 to 255, NaN where it was not looked at.
    """

    rows: np.ndarray
    columns: dict
    left_out: list
    corrupt: int
    colours: np.ndarray


def read(dataset, rows, coloured) -> Found:
    """Reads rows of a data set.

    Args:
        dataset: Dataset.
        rows: (n,) int64 row ids, ascending.
        coloured: (c,) row ids among them whose mean colour is computed, which decodes the image.
    """
    wanted = set(np.asarray(coloured).tolist())
    colours = np.full((len(rows), 3), np.nan, np.float32)
    builders, corrupt = {}, 0
    source = decoded(
        dataset, RowReader(dataset), rows, lambda row, example: _values(example, row in wanted)
    )
    with Progress(len(rows), "metadata and colours", "images") as progress:
        for place, (_, found) in enumerate(source):
            progress.update()
            if found is None:
                corrupt += 1
                continue
            values, colour = found
            if colour is not None:
                colours[place] = colour
            _add(builders, place, values)
    made = {name: builder.column(name, dataset.class_names) for name, builder in builders.items()}
    names = sorted(made, key=lambda name: (name != LABEL, name))
    columns = {name: made[name] for name in names if made[name] is not None}
    return Found(rows, columns, [name for name in names if name not in columns], corrupt, colours)


def _add(builders, place, values):
    """Adds the values of one image to the builders of their columns."""
    for name, value in values.items():
        if name in builders or len(builders) < _MOST:
            builders.setdefault(name, _Builder()).add(place, value)


def _values(example, wants_colour):
    """({column: value or list}, mean colour or None) of one image."""
    values = {name: value for name, value in example["meta"].items() if value not in (None, [])}
    if example["label"] is not None:
        values[LABEL] = example["label"]
    pair = values.get(_LATITUDE), values.get(_LONGITUDE)
    if all(isinstance(number, int | float) and math.isfinite(number) for number in pair):
        del values[_LATITUDE], values[_LONGITUDE]
        values[PLACE] = _place(*map(math.floor, pair))
    return values, mean_colour(example["encoded"]) if wants_colour else None


def _place(latitude, longitude):
    """The name of a cell by its south-western corner."""
    return (
        f"{abs(latitude)}\N{DEGREE SIGN} {'N' if latitude >= 0 else 'S'}, "
        f"{abs(longitude)}\N{DEGREE SIGN} {'E' if longitude >= 0 else 'W'}"
    )


class _Builder:
    """Collects the values of one column as numbers."""

    def __init__(self):
        self._numbers = {}
        self._images, self._codes = array.array("i"), array.array("i")
        self._measured = False

    def add(self, place, value):
        values = value[:_ITEMS] if isinstance(value, list) else [value]
        for item in dict.fromkeys(values):
            item = item[: 2 * _TEXT] if isinstance(item, str) else item
            self._measured |= isinstance(item, float)
            self._images.append(place)
            self._codes.append(self._numbers.setdefault(item, len(self._numbers)))

    def column(self, name, class_names):
        """The Column; None if it says nothing about clusters."""
        images, codes = np.array(self._images, np.int32), np.array(self._codes, np.int32)
        own = len(self._numbers) > max(_FEW, _OWN * len(np.unique(images)))
        if name != LABEL and (self._measured or own):
            return None
        names = class_names if name == LABEL else None
        return Column(name, images, codes, [_text(item, names) for item in self._numbers])


def _text(value, class_names):
    if class_names is not None and isinstance(value, int) and value < len(class_names):
        return text(class_names[value], _TEXT)
    return text(str(value), _TEXT)
