"""What is to be found by what, in a folder of images: the common form of all ground truths.

truth = groups("/data/objects")
truth.database[truth.queries[0].row], truth.queries[0].answers["map"].positives
"""

import os
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from dc_tf.errors import ConfigError, DataError

IMAGE_NAMES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


@dataclass(frozen=True)
class Answer:
    """Row ids of the database that a query should find, and those that count neither way."""

    positives: np.ndarray
    junk: np.ndarray


@dataclass(frozen=True)
class Query:
    """What is searched with.

    Attributes:
        path: of its image.
        box: (left, top, right, bottom) in pixels, of the part that is searched with; None for all.
        row: of the same image in the database, if there is no box; else None.
        answers: {metric: Answer}; metrics without positives are absent.
    """

    path: str
    box: tuple[float, float, float, float] | None
    row: int | None
    answers: dict[str, Answer]


@dataclass(frozen=True)
class GroundTruth:
    """A benchmark.

    Attributes:
        kind: "classic", "revisited" or "groups".
        database: paths of the images that are searched, by row id.
        queries: list of Query.
        metrics: names of the metrics; the last is the one to be named in a line.
    """

    kind: str
    database: list[str]
    queries: list[Query]
    metrics: tuple[str, ...]


def groups(folder: str) -> GroundTruth:
    """Each sub-folder shows one object; each image of it is to find the others.

    Images directly in `folder`, and groups of one, are in the database and query nothing.

    Raises:
        ConfigError: no group has two images.
    """
    paths = images_in(folder)
    names = [os.path.relpath(path, folder).split(os.sep)[:-1] for path in paths]
    names = [name[0] if name else "" for name in names]
    members: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        members.setdefault(name, []).append(row)
    rows = {name: np.array(found) for name, found in members.items()}
    queries = [
        # All members and oneself as junk: one array serves the whole group.
        Query(path, None, row, {"map": Answer(rows[name], np.array([row]))})
        for row, (path, name) in enumerate(zip(paths, names))
        if name and len(rows[name]) > 1
    ]
    if not queries:
        raise ConfigError(
            f"{folder!r} has neither '*_query.txt' nor 'gnd_*' files, and no sub-folder with two "
            "images of the same object; see 'dc_tf/evaluation/retrieval/task.py' for the layouts."
        )
    return GroundTruth("groups", paths, queries, ("map",))


def images_in(folder: str) -> list[str]:
    """Paths of all images at any depth, sorted.

    Raises:
        ConfigError: there are none.
    """
    paths = [path for path in files_in(folder) if path.lower().endswith(IMAGE_NAMES)]
    if not paths:
        raise ConfigError(
            f"{folder!r} holds no images ({', '.join(IMAGE_NAMES)}); retrieval reads image files, "
            "not what `dc_tf convert` makes of them."
        )
    return paths


def files_in(folder: str) -> list[str]:
    """Paths of all files at any depth, sorted."""
    if not tf.io.gfile.isdir(folder):
        raise ConfigError(f"{folder!r} is not a folder.")
    return sorted(
        os.path.join(parent, name)
        for parent, _, names in tf.io.gfile.walk(folder)
        for name in names
        if not name.startswith(".")
    )


class ImageNames:
    """Finds images by their name without folder and ending, as ground truths write it."""

    def __init__(self, folder: str):
        self._folder = folder
        self._paths: dict[str, list[str]] = {}
        for path in images_in(folder):
            self._paths.setdefault(_stem(path), []).append(path)

    def path(self, name: str, source: str) -> str:
        """Path of an image.

        Raises:
            DataError: there is none or more than one; `source` is what names it.
        """
        found = self._paths.get(_stem(name), [])
        if len(found) != 1:
            what = f"is in {len(found)} folders" if found else "is missing"
            raise DataError(f"the image {name!r}, named in {source}, {what} under {self._folder}.")
        return found[0]

    def all(self) -> list[str]:
        """Names of all images, sorted."""
        return sorted(self._paths)


def checked_box(values, source) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of four finite numbers that enclose something.

    Raises:
        DataError: naming `source`.
    """
    try:
        box = tuple(float(value) for value in values)
        if len(box) == 4 and np.isfinite(box).all() and box[0] < box[2] and box[1] < box[3]:
            return box
    except (TypeError, ValueError) as error:
        raise DataError(f"{source} has the box {values!r}; expected four numbers.") from error
    raise DataError(f"{source} has the box {values!r}; expected left < right and top < bottom.")


def _stem(name):
    base = os.path.basename(name)
    root, ending = os.path.splitext(base)
    return root if ending.lower() in IMAGE_NAMES else base
