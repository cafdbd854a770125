import os
import tracemalloc
from unittest import mock

import faiss
import numpy as np
import tensorflow as tf
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from dc_tf.errors import ConfigError
from dc_tf.evaluation import metrics
from dc_tf.evaluation.frozen import knn


def blobs(n, classes=5, dim=8, seed=0):
    """Overlapping clusters, of unequal size, away from the origin."""
    random = np.random.default_rng(seed)
    labels = np.minimum(random.geometric(0.4, n) - 1, classes - 1).astype(np.int32)
    centres = np.random.default_rng(99).standard_normal((classes, dim))
    x = 10 + centres[labels] + 0.9 * random.standard_normal((n, dim))
    return x.astype(np.float32), labels


def bound(rows, dim=8):
    """A context that limits the number of float32 rows per chunk."""
    return mock.patch.object(knn, "_CHUNK_BYTES", 4 * dim * rows)


class KnnTest(tf.test.TestCase):
    def test_votes_equal_those_of_scikit_learn(self):
        (x, y), (queries, _) = blobs(400), blobs(200, seed=1)
        found = knn.classify(x, queries, y, 5, neighbours=(1, 5, 20), temperature=0.07)
        for k, predicted in found.items():
            reference = KNeighborsClassifier(
                k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
            ).fit(x - x.mean(0), y)
            self.assertAllEqual(predicted, reference.predict(queries - x.mean(0)))

    def test_parts_do_not_change_the_result(self):
        (x, y), (queries, _) = blobs(100), blobs(50, seed=1)
        whole = knn.nearest(x, queries, 20)
        voted = self.votes(x, queries, y)
        for rows in (1, 7, 19, 99):  # fewer and more than there are neighbours, a short last part
            with bound(rows), mock.patch.object(knn, "_TEST_ROWS", 6):
                cosines, places = knn.nearest(x, queries, 20)
                self.assertAllClose(cosines, whole[0], rtol=0, atol=1e-6)
                self.assertAllEqual(places, whole[1])
                self.assertAllEqual(self.votes(x, queries, y), voted)

    def votes(self, x, queries, y):
        found = knn.classify(x, queries, y, 5, (1, 5, 20))
        return np.stack([found[k] for k in (1, 5, 20)])

    def test_neighbours_are_those_of_the_whole_table_of_cosines(self):
        (x, _), (queries, _) = blobs(100), blobs(50, seed=1)
        known, unknown = (v.astype(np.float64) - x.mean(0, np.float64) for v in (x, queries))
        lengths = [np.linalg.norm(v, axis=1) for v in (unknown, known)]
        table = unknown @ known.T / np.outer(*lengths)
        order = np.argsort(-table, axis=1)[:, :20]
        with bound(7):
            cosines, rows = knn.nearest(x, queries, 20)
        self.assertAllEqual(rows, order)
        self.assertAllClose(cosines, np.take_along_axis(table, order, 1), atol=1e-6)
        self.assertEqual((cosines.dtype, rows.dtype), (np.float32, np.int64))

    def test_of_equal_rows_the_lower_comes_first(self):
        x = np.float32([[1, 0], [-1, 0]] * 6)
        for rows in (1, 5, 12):
            with bound(rows, dim=2):
                found = knn.nearest(x, x[:2], 12)[1]
            self.assertAllEqual(found[0], [*range(0, 12, 2), *range(1, 12, 2)])
            self.assertAllEqual(found[1], [*range(1, 12, 2), *range(0, 12, 2)])
        with bound(1, dim=2):
            self.assertAllEqual(knn.nearest(x, x[:2], 3)[1], [[0, 2, 4], [1, 3, 5]])

    def test_faiss_gets_every_pair_of_rows_once_and_never_more_than_the_bound(self):
        (x, _), (queries, _) = blobs(100), blobs(50, seed=1)
        with bound(7), mock.patch.object(faiss, "knn", wraps=faiss.knn) as search:
            knn.nearest(x, queries, 5)
        sizes = [[len(rows) for rows in call.args[:2]] for call in search.call_args_list]
        self.assertEqual(np.max(sizes), 7)
        self.assertEqual(sum(a * b for a, b in sizes), 50 * 100)

    def test_memory_does_not_grow_with_rows_on_disk(self):
        few, many = (self.peak_bytes(rows) for rows in (2_000, 20_000))  # 0.5 and 5 MB
        self.assertLess(many, 1.1 * few)
        self.assertLess(few, 500_000)

    def peak_bytes(self, rows):
        path = os.path.join(self.get_temp_dir(), f"{rows}.npy")
        np.save(path, np.random.default_rng(0).standard_normal((rows, 64), np.float32))
        x = np.load(path, mmap_mode="r")
        tracemalloc.start()
        try:
            with bound(200, dim=64):
                knn.nearest(x, x[:300], 5)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

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
                np.mean(metrics.classes_above(scores, labels) < k),
                top_k_accuracy_score(labels, scores, k=k),
            )
        self.assertAllClose(
            metrics.accuracy(predicted, labels),
            np.mean(metrics.classes_above(scores, labels) == 0),
        )


if __name__ == "__main__":
    tf.test.main()
