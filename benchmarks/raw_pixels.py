"""Accuracy of k-NN on raw pixels, the baseline for all features.

Pixels are centred by the mean of the training set and compared by cosine, as in `dc_tf evaluate
--task=knn`.

    python benchmarks/raw_pixels.py --train=DATA/cifar10_train --test=DATA/cifar10_test --size=32
"""

import json

import faiss
import numpy as np
from absl import app, flags

from dc_tf.evaluation.splits import open_splits

FLAGS = flags.FLAGS
flags.DEFINE_string("train", None, "Labelled data set that votes.", required=True)
flags.DEFINE_string("test", None, "Labelled data set that is classified.", required=True)
flags.DEFINE_integer("size", 32, "Pixels of the side of the centre crop.")
flags.DEFINE_integer("neighbours", 5, "Votes; the nearest wins a tie.")


def main(_) -> None:
    train, test = open_splits(FLAGS.train, FLAGS.test)
    train_pixels, test_pixels = pixels(train), pixels(test)
    mean = train_pixels.mean(0)
    for vectors in (train_pixels, test_pixels):
        vectors -= mean
        faiss.normalize_L2(vectors)
    index = faiss.IndexFlatIP(train_pixels.shape[1])
    index.add(train_pixels)
    _, nearest = index.search(test_pixels, FLAGS.neighbours)
    guesses = [vote(train.labels[row], train.classes) for row in nearest]
    top1 = float(np.mean(np.array(guesses) == test.labels))
    print(json.dumps({"raw_pixel_knn_top1": top1, "neighbours": FLAGS.neighbours}))


def pixels(split) -> np.ndarray:
    """(n, 3 * size^2) float32 in [0, 1]."""
    batches = split.images(256, FLAGS.size, FLAGS.size).as_numpy_iterator()
    return np.concatenate([batch.reshape(len(batch), -1) for batch in batches])


def vote(labels, classes) -> int:
    """The most frequent label; of equally frequent ones that of the nearest neighbour."""
    counts = np.bincount(labels, minlength=classes)
    return next(label for label in labels if counts[label] == counts.max())


if __name__ == "__main__":
    app.run(main)
