"""Figures of a classifier, against scikit-learn's; their files, read again."""

import csv
import os

import numpy as np
import sklearn.metrics
import tensorflow as tf
from PIL import Image

from dc_tf.classification import metrics


def drawn(images=200, classes=4, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    wrong = random.integers(0, classes, images)
    return labels, np.where(random.random(images) < 0.6, labels, wrong)


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


class FiguresTest(tf.test.TestCase):
    def test_they_are_those_of_scikit_learn(self):
        labels, predictions = drawn()
        confusion = metrics.confusion_matrix(labels, predictions, 4)
        self.assertAllEqual(confusion, sklearn.metrics.confusion_matrix(labels, predictions))
        found = metrics.by_class(confusion)
        precision, recall, _, images = sklearn.metrics.precision_recall_fscore_support(
            labels, predictions
        )
        self.assertAllClose(found["precision"], precision)
        self.assertAllClose(found["recall"], recall)
        self.assertAllEqual(found["images"], images)
        both = metrics.overall(confusion)
        self.assertAllClose(both["top1"], sklearn.metrics.accuracy_score(labels, predictions))
        expected = sklearn.metrics.balanced_accuracy_score(labels, predictions)
        self.assertAllClose(both["mean_class"], expected)

    def test_a_class_without_images_or_predictions_has_no_share(self):
        confusion = metrics.confusion_matrix([0, 0, 2], [0, 2, 2], 4)
        found = metrics.by_class(confusion)
        self.assertAllEqual(np.isnan(found["recall"]), [False, True, False, True])
        self.assertAllEqual(np.isnan(found["precision"]), [False, True, False, True])
        self.assertAllClose(metrics.overall(confusion)["mean_class"], 0.75)
        lowest = metrics.lowest_recall(confusion, ["a", "b", "c", "d"], 5)
        self.assertEqual(lowest, {"a": 0.5, "c": 1.0})
        path = os.path.join(self.get_temp_dir(), "classes.csv")
        metrics.write_by_class(confusion, ["a", 'b,"', "c", "d"], path)
        head, *lines = read_csv(path)
        self.assertEqual(head, ["class", "images", "predicted", "correct", "precision", "recall"])
        self.assertEqual(lines[0], ["a", "2", "1", "1", "1", "0.5"])
        self.assertEqual(lines[1], ['b,"', "0", "0", "0", "", ""])

    def test_the_matrix_has_a_line_for_each_label(self):
        labels, predictions = drawn(classes=3)
        confusion = metrics.confusion_matrix(labels, predictions, 3)
        path = os.path.join(self.get_temp_dir(), "confusion.csv")
        names = ["cat", "label", "cat"]  # a name of a column, and one twice
        metrics.write_confusion(confusion, names, path)
        head, *lines = read_csv(path)
        self.assertEqual(head, ["label", *names])
        self.assertEqual([line[0] for line in lines], names)
        self.assertAllEqual([list(map(int, line[1:])) for line in lines], confusion)

    def test_the_picture_is_darkest_where_images_are(self):
        path = os.path.join(self.get_temp_dir(), "confusion.png")
        for classes in (2, 70):  # with names and counts, and without
            confusion = 9 * np.eye(classes, dtype=np.int64)
            metrics.draw_confusion(confusion, [f"$class_{n}^2$" for n in range(classes)], path)
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            dark_blue = (pixels == [8, 48, 107]).all(-1)  # of 1 in matplotlib's "Blues"
            rows, columns = np.nonzero(dark_blue)
            self.assertGreater(len(rows), 100)
            # The diagonal runs down to the right; the colour bar is beside it.
            left = columns < 0.75 * pixels.shape[1]
            self.assertGreater(np.corrcoef(rows[left], columns[left])[0, 1], 0.5, classes)


if __name__ == "__main__":
    tf.test.main()
