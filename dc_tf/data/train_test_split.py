"""Splits a labelled data set into a training and a test set.

train_test_split("/data/all", train="/data/train", test="/data/test", every=5)

`launch/quickstart.py` runs it as a program, which prints the row counts as JSON, or null if the
data set has too few labels to evaluate with:

    python -m dc_tf.data.train_test_split /data/all /data/train /data/test
"""

import json
import sys

import numpy as np

from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.data.storage.writer import DatasetWriter
from dc_tf.progress import Progress

_ROWS_AT_ONCE = 256
_ROWS_PER_SHARD = 1000


def train_test_split(source, train, test, every=5) -> dict:
    """Copies the rows of a data set into two new ones.

    Args:
        source: folder of a data set.
        train, test: folders to write; existing data sets are replaced.
        every: int >= 2; rows 1, 1 + every, ... of each class in row order go to `test`, so that
            every class of two or more images is in both. Rows without a label go to `train`.

    Returns:
        dict of the row counts of `train` and `test`.

    Raises:
        DataError: `source` is incomplete, or one of the two sets would be empty.
    """
    dataset = Dataset.open(source)
    reader = RowReader(dataset)
    held = held_out_rows(dataset.labels(), every)
    counts = {}
    for name, output, rows in (
        ("train", train, np.flatnonzero(~held)),
        ("test", test, np.flatnonzero(held)),
    ):
        with (
            DatasetWriter(output, dataset.class_names, _ROWS_PER_SHARD, overwrite=True) as writer,
            Progress(len(rows), f"split, {name}", "images") as progress,
        ):
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                examples = reader.examples(rows[start : start + _ROWS_AT_ONCE])
                for example in examples:
                    writer.write(**example)
                progress.update(len(examples))
        counts[name] = len(rows)
    return counts


def measurable(source) -> bool:
    """Whether at least two classes have the two images needed to be in both sets."""
    labels = Dataset.open(source).labels()
    return int((np.bincount(labels[labels >= 0], minlength=1) >= 2).sum()) >= 2


def held_out_rows(labels, every) -> np.ndarray:
    """Marks the rows of the test set.

    Args:
        labels: (n,) int32, -1 for none.
        every: int, see `train_test_split`.

    Returns:
        (n,) bool.
    """
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels[labels >= 0]):
        held[np.flatnonzero(labels == label)[1::every]] = True
    return held


if __name__ == "__main__":
    print(json.dumps(train_test_split(*sys.argv[1:]) if measurable(sys.argv[1]) else None))
