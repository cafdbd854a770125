"""The labelled rows of a task's training and test set.

train, test = open_splits("/data/train", "/data/test")
train.labels, train.classes
"""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import tensorflow as tf

from dc_tf.data.input.draws import ImageDraws
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader, data_errors
from dc_tf.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Split:
    """The rows of a data set that have a label.

    Attributes:
        path: path of the data set.
        reader: RowReader of the data set.
        rows: (n,) int64 row ids.
        labels: (n,) int32 in [0, classes), numbered as in the training set.
        classes: number of classes, the same for training and test set.
    """

    path: str
    reader: RowReader
    rows: np.ndarray
    labels: np.ndarray
    classes: int

    def images(
        self, batch_size, resolution, short_side, places=slice(None), interpolation="bilinear"
    ) -> tf.data.Dataset:
        """Centre crops in the order of `rows`: batches of (b, r, r, 3) float32 in [0, 1].

        Args:
            places: selects from `rows`; all by default.
            interpolation: of scaling, as of `augment.center_crop`.
        """
        from dc_tf.data.input.pipeline import evaluation_batches  # brings TensorFlow

        rows, how = self.rows[places], {"interpolation": interpolation}
        batches = evaluation_batches(self.reader, rows, batch_size, resolution, short_side, **how)
        return batches.map(lambda batch: batch["image"])

    def augmented(self, places, seeds, batch_size, resolution) -> tf.data.Dataset:
        """Random crops as in training, in full batches only.

        Args:
            places: (n,) integers, indices into `rows`.
            seeds: (n, 2) int32.
        """
        from dc_tf.data.input.pipeline import training_batches

        zeros = np.zeros(len(places), np.int32)
        draws = ImageDraws(self.rows[places], zeros, seeds)
        batches = training_batches(self.reader, draws, batch_size, resolution)
        return batches.map(lambda batch: batch["image"])

    def errors(self) -> contextlib.AbstractContextManager:
        """A context that turns a failure to read an image into a DataError that names it."""
        return data_errors()


def open_splits(train: str, test: str) -> tuple[Split, Split]:
    """Opens both data sets; test labels are renumbered to the training set's class ids.

    Rows without a label are left out.

    Raises:
        ConfigError: a data set has no labels or a label without a class name, or the test set has
            a class that the training set lacks.
        DataError: a data set cannot be opened.
    """
    datasets = [Dataset.open(path) for path in (train, test)]
    rows, labels = zip(*(_labelled(dataset) for dataset in datasets), strict=True)
    labels = labels[0], _renumber(labels[1], *datasets)
    classes = int(labels[0].max()) + 1
    if datasets[0].class_names is not None:
        classes = max(classes, len(datasets[0].class_names))
    if classes < 2:
        raise ConfigError(
            f"the data set {train!r} has one class only; use one with at least two classes."
        )
    if labels[1].max() >= classes:
        raise ConfigError(
            f"the data set {test!r} has label {labels[1].max()}, but {train!r} has only "
            f"0..{classes - 1}; use data sets with the same classes."
        )
    readers = [RowReader(dataset) for dataset in datasets]
    paths = train, test
    columns = zip(paths, readers, rows, labels, strict=True)
    train, test = (Split(*values, classes) for values in columns)
    return train, test


def _labelled(dataset):
    labels = dataset.labels()
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise ConfigError(
            f"the data set {dataset.path!r} has no labels, which this task needs; convert it from "
            "folders named after their class, with 'dc_tf convert --labels_from_folders'."
        )
    names = dataset.class_names
    if names is not None and labels.max() >= len(names):
        raise ConfigError(
            f"the data set {dataset.path!r} has the label {labels.max()} in row "
            f"{labels.argmax()}, but class names only for 0..{len(names) - 1}; convert or "
            "index it again with the right labels."
        )
    return rows.astype(np.int64), labels[rows]


def _renumber(labels, train, test):
    """Maps labels by class name if both sets have names; their numbering may differ."""
    if train.class_names is None or test.class_names is None:
        return labels
    numbers = {name: number for number, name in enumerate(train.class_names)}
    present = set(np.unique(labels).tolist())
    unknown = [
        name for i, name in enumerate(test.class_names) if i in present and name not in numbers
    ]
    if unknown:
        raise ConfigError(
            f"the data set {test.path!r} has the class {unknown[0]!r}, which {train.path!r} does "
            "not have; use data sets with the same classes."
        )
    table = np.array([numbers.get(name, -1) for name in test.class_names], np.int32)
    return table[labels]
