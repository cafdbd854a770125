"""Retrieval ground truth: the database, the queries and their positives, in one common form.

ground_truth = groups("/data/objects")
query = ground_truth.queries[0]
ground_truth.database[query.row], query.answers["map"].positives
"""

import os
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from dc_tf.errors import ConfigError, DataError

IMAGE_NAMES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


@dataclass(frozen=True)
class Answer:
    """Database row ids of a query's positives, and of the junk images, which are ignored."""

    positives: np.ndarray
    junk: np.ndarray


@dataclass(frozen=True)
class Query:
    """A query image, or a region of one.

    Attributes:
        path: path of the image.
        box: (left, top, right, bottom) in pixels of the query region; None for the whole image.
        row: row id of the same image in the database if there is no box, else None.
        answers: {metric: Answer}; metrics without positives are absent.
    """

    path: str
    box: tuple[float, float, float, float] | None
    row: int | None
    answers: dict[str, Answer]


@dataclass(frozen=True)
class GroundTruth:
    """A retrieval benchmark.

    Attributes:
        kind: "classic", "revisited" or "groups".
        database: paths of the database images, by row id.
        queries: list of Query.
        metrics: names of the metrics; the last one is the main metric.
    """

    kind: str
    database: list[str]
    queries: list[Query]
    metrics: tuple[str, ...]


def groups(folder: str) -> GroundTruth:
    """One object per sub-folder; the positives of an image are the others of its sub-folder.

    Images directly in `folder`, and sub-folders with one image, are in the database only.

    Raises:
        ConfigError: no sub-folder has two images.
    """
    paths = images_in(folder)
    names = [os.path.relpath(path, folder).split(os.sep)[:-1] for path in paths]
    names = [name[0] if name else "" for name in names]
    members: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        members.setdefault(name, []).append(row)
    rows = {name: np.array(found) for name, found in members.items()}
    queries = [
        # The query itself is junk, so all members can share one array of positives.
        Query(path, None, row, {"map": Answer(rows[name], np.array([row]))})
        for row, (path, name) in enumerate(zip(paths, names, strict=True))
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
        ConfigError: the folder has no images.
    """
    paths = [path for path in files_in(folder) if path.lower().endswith(IMAGE_NAMES)]
    if not paths:
        raise ConfigError(
            f"{folder!r} holds no images ({', '.join(IMAGE_NAMES)}); retrieval reads image files, "
            "not data sets of `dc_tf convert`."
        )
    return paths


def files_in(folder: str) -> list[str]:
    """Paths of all files at any depth, sorted."""
    if not tf.io.gfile.isdir(folder):
        raise ConfigError(f"{folder!r} is not a folder; give a folder of images.")
    return sorted(
        os.path.join(parent, name)
        for parent, _, names in tf.io.gfile.walk(folder)
        for name in names
        if not name.startswith(".")
    )


class ImageNames:
    """Finds images by file name without folder and extension, as ground truths list them."""

    def __init__(self, folder: str):
        self._folder = folder
        self._paths: dict[str, list[str]] = {}
        for path in images_in(folder):
            self._paths.setdefault(_stem(path), []).append(path)

    def path(self, name: str, source: str) -> str:
        """Path of an image.

        Raises:
            DataError: no image or several have this name; the message cites `source`.
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
    """(left, top, right, bottom) as four finite numbers that enclose a positive area.

    Raises:
        DataError: the box is not valid; the message cites `source`.
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
