"""Initial rows: the same on any number of workers, and spread out where that is asked for."""

import numpy as np
import pytest
import tensorflow as tf
import workers
from absl.testing import parameterized

from dc_tf.clustering.initial import first_of_equals, initial_centroids, mean_centroids
from dc_tf.clustering.kmeans import kmeans
from dc_tf.clustering.row_stats import RowStats
from dc_tf.clustering.store.points import as_points
from dc_tf.distributed.collectives import Solo
from dc_tf.kmeans_options import INITS

pytestmark = pytest.mark.numeric


def draw(comm, x, count, method="random", seed=0):
    points = as_points(np.array_split(x, comm.size)[comm.rank])
    return initial_centroids(method, points, count, comm, RowStats.make(points, comm, seed), seed)


def means_of_share(comm, x, labels, k, default):
    share = np.array_split(np.arange(len(x)), comm.size)[comm.rank]
    return mean_centroids(x[share], labels[share], k, comm, default)


def clouds(n, k, dim=8, seed=0):
    """(n, dim) float32 rows in k clouds that are far apart, and the cloud of each."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n)
    centers = 100 * rng.normal(size=(k, dim))
    return (centers[label] + rng.normal(size=(n, dim))).astype(np.float32), label


class InitialTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(*INITS)
    def test_the_same_rows_are_drawn_on_any_number_of_workers(self, method):
        x, _ = clouds(300, 50)
        alone = draw(Solo(), x, 30, method, 7)
        self.assertLen(np.unique(alone, axis=0), 30)
        self.assertTrue(all((row == x).all(axis=1).any() for row in alone))
        self.assertNotAllEqual(alone, draw(Solo(), x, 30, method, 8))
        for n in (2, 4):
            for rows in workers.on_workers(n, draw, x, 30, method, 7):
                self.assertAllEqual(rows, alone)

    @parameterized.parameters(*INITS)
    def test_all_rows_are_drawn_once_when_as_many_are_asked_for(self, method):
        x = np.arange(20, dtype=np.float32)[:, None]
        self.assertAllEqual(np.sort(draw(Solo(), x, 20, method), axis=0), x)

    @parameterized.parameters("k-means++", "k-means||")
    def test_rows_far_apart_are_preferred(self, method):
        x, cloud = clouds(2000, 20)
        hits = []
        for seed in range(5):
            rows = draw(Solo(), x, 20, method, seed)
            found = [cloud[np.flatnonzero((row == x).all(axis=1))[0]] for row in rows]
            hits.append(len(set(found)))
        self.assertGreaterEqual(np.mean(hits), 17)  # rows drawn uniformly hit 13

    @parameterized.parameters("k-means++", "k-means||")
    def test_equal_rows_are_drawn_once(self, method):
        x = np.repeat(np.eye(4, dtype=np.float32), 50, axis=0)
        self.assertAllEqual(np.unique(draw(Solo(), x, 9, method), axis=0), np.eye(4)[::-1])

    @pytest.mark.extended
    def test_draws_follow_the_squared_distance(self):
        # From a start at 0, rows at 1, 2 and 3 are drawn next as 1 : 4 : 9.
        x = np.repeat(np.arange(4, dtype=np.float32), 100)[:, None]
        second = [draw(Solo(), x, 2, "k-means++", seed) for seed in range(600)]
        from_zero = np.concatenate([rows[1] for rows in second if rows[0] == 0])
        shares = [np.mean(from_zero == value) for value in (1, 2, 3)]
        self.assertAllClose(shares, np.array([1, 4, 9]) / 14, atol=0.1)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_kmeans_ends_lower_from_rows_far_apart(self):
        x, _ = clouds(2000, 30)
        random, plus, scalable = (
            np.mean([kmeans(x, 30, seed=seed, init=method).objective[-1] for seed in range(3)])
            for method in INITS
        )
        self.assertLess(max(plus, scalable), 0.7 * random)

    def test_means_of_labels_are_those_of_all_workers_and_default_without_rows(self):
        x, label = clouds(200, 5)
        label = np.where(np.arange(200) % 7 == 0, -1, label).astype(np.int32)
        default = np.full((6, 8), 5, np.float32)
        expected = [x[label == j].mean(axis=0) for j in range(5)] + [default[5]]
        for means in workers.on_workers(2, means_of_share, x, label, 6, default):
            self.assertAllClose(means, expected, rtol=1e-5)

    def test_the_first_of_equal_centroids_is_known(self):
        x = np.array([[0, 1], [-0.0, 1], [2, 1], [0, 1], [2, 1], [1, 2]], np.float32)
        self.assertAllEqual(first_of_equals(x), [True, False, True, False, False, True])
