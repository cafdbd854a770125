"""The labelled rows of the data sets that a task trains and tests on.

train, test = open_splits("/data/train", "/data/test")
train.labels, train.classes
"""

import dataclasses

import numpy as np

from dc_tf.data.input.draws import ImageDraws
from dc_tf.data.input.pipeline import evaluation_batches, training_batches
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader, data_errors
from dc_tf.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows of a data set that have a label.

    Attributes:
        path: of the data set.
        reader: reads its rows.
        rows: (n,) int64 row ids.
        labels: (n,) int32 in [0, classes), numbered as in the training set.
        classes: number of classes, the same for training and test set.
    """

    path: str
    reader: RowReader
    rows: np.ndarray
    labels: np.ndarray
    classes: int

    def images(self, batch_size, resolution, short_side, places=slice(None)):
        """Centre crops in the order of `rows`: batches of (b, r, r, 3) float32 in [0, 1].

        Args:
            places: which of the rows, by default all.
        """
        rows = self.rows[places]
        batches = evaluation_batches(self.reader, rows, batch_size, resolution, short_side)
        return batches.map(lambda batch: batch["image"])

    def augmented(self, places, seeds, batch_size, resolution):
        """Random crops as in training, full batches only.

        Args:
            places: (n,) integers, places in `rows`.
            seeds: (n, 2) int32.
        """
        zeros = np.zeros(len(places), np.int32)
        draws = ImageDraws(self.rows[places], zeros, seeds)
        batches = training_batches(self.reader, draws, batch_size, resolution)
        return batches.map(lambda batch: batch["image"])

    def errors(self):
        """A context in which what goes wrong with an image is a DataError that names it."""
        return data_errors()


def open_splits(train: str, test: str) -> tuple[Split, Split]:
    """Opens both data sets; labels of the second are brought to the numbers of the first.

    Rows without a label are left out.

    Raises:
        ConfigError: a data set has no labels, or one beyond the names of its classes; or the test
            set has a class that the training set does not know.
        DataError: a data set that cannot be opened.
    """
    datasets = [Dataset.open(path) for path in (train, test)]
    rows, labels = zip(*(_labelled(dataset) for dataset in datasets))
    labels = labels[0], _renumber(labels[1], *datasets)
    classes = int(labels[0].max()) + 1
    if datasets[0].class_names is not None:
        classes = max(classes, len(datasets[0].class_names))
    if classes < 2:
        raise ConfigError(f"the data set {train!r} has one class only; measuring needs two.")
    if labels[1].max() >= classes:
        raise ConfigError(
            f"the data set {test!r} has label {labels[1].max()}, but {train!r} knows only "
            f"0..{classes - 1}; use data sets with the same classes."
        )
    readers = [RowReader(dataset) for dataset in datasets]
    paths = train, test
    train, test = (Split(*values, classes) for values in zip(paths, readers, rows, labels))
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
            f"{labels.argmax()}, but names for the classes 0..{len(names) - 1} only; convert or "
            "index it again with the right labels."
        )
    return rows.astype(np.int64), labels[rows]


def _renumber(labels, train, test):
    """Class names decide where both sets have them: folders may be sorted into other numbers."""
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
            "not know; use data sets with the same classes."
        )
    table = np.array([numbers.get(name, -1) for name in test.class_names], np.int32)
    return table[labels]
