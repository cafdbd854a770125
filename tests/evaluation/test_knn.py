from unittest import mock

import numpy as np
import tensorflow as tf
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from dc_tf.errors import ConfigError
from dc_tf.evaluation import knn, metrics


def blobs(n, classes=5, dim=8, seed=0):
    """Overlapping clusters, of unequal size, away from the origin."""
    random = np.random.default_rng(seed)
    labels = np.minimum(random.geometric(0.4, n) - 1, classes - 1).astype(np.int32)
    centres = np.random.default_rng(99).standard_normal((classes, dim))
    x = 10 + centres[labels] + 0.9 * random.standard_normal((n, dim))
    return x.astype(np.float32), labels


class KnnTest(tf.test.TestCase):
    def test_votes_equal_those_of_scikit_learn(self):
        (x, y), (queries, _) = blobs(400), blobs(200, seed=1)
        found = knn.classify(x, queries, y, 5, neighbours=(1, 5, 20), temperature=0.07)
        for k, predicted in found.items():
            reference = KNeighborsClassifier(
                k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
            ).fit(x - x.mean(0), y)
            self.assertAllEqual(predicted, reference.predict(queries - x.mean(0)))

    def test_chunks_do_not_change_the_result(self):
        (x, y), (queries, _) = blobs(100), blobs(50, seed=1)
        whole = knn.classify(x, queries, y, 5, (5,))[5]
        with mock.patch.object(knn, "_CHUNK", 7):
            self.assertAllEqual(knn.classify(x, queries, y, 5, (5,))[5], whole)

    def test_more_neighbours_than_rows_means_all_rows(self):
        (x, y), (queries, _) = blobs(6), blobs(50, seed=1)
        found = knn.classify(x, queries, y, 5, (6, 20))
        self.assertAllEqual(found[20], found[6])

    def test_a_row_at_the_mean_has_no_direction_and_breaks_nothing(self):
        x = np.float32([[1, 0], [-1, 0], [0, 0]])
        found = knn.classify(x, x, np.int32([0, 1, 2]), 3, (1,))[1]
        self.assertAllEqual(found[:2], [0, 1])
        self.assertIn(found[2], [0, 1, 2])

    def test_senseless_settings_are_refused(self):
        for settings in [dict(neighbours=(0,)), dict(neighbours=()), dict(temperature=0)]:
            with self.assertRaises(ConfigError):
                knn.Protocol(**settings)


class MetricsTest(tf.test.TestCase):
    def test_they_equal_those_of_scikit_learn(self):
        random = np.random.default_rng(0)
        scores, labels = random.random((300, 7)), random.integers(0, 7, 300)
        predicted = scores.argmax(1)
        self.assertAllClose(
            metrics.mean_class_accuracy(predicted, labels),
            balanced_accuracy_score(labels, predicted),
        )
        for k in (1, 3, 6):
            self.assertAllClose(
                metrics.top_k_accuracy(scores, labels, k),
                top_k_accuracy_score(labels, scores, k=k),
            )
        self.assertAllClose(
            metrics.accuracy(predicted, labels), metrics.top_k_accuracy(scores, labels, 1)
        )

    def test_fewer_classes_than_k_are_always_right(self):
        self.assertEqual(metrics.top_k_accuracy([[0.1, 0.9]], [0], 5), 1)


if __name__ == "__main__":
    tf.test.main()
