"""Distances to the own centroid and the nearest other one are those of NumPy in float64."""

from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from dc_tf.clustering import nearness
from dc_tf.clustering.store.points import as_points

pytestmark = pytest.mark.numeric


def brute_force(x, labels, centroids, used):
    """(n, 2) distance to the own centroid, and its ratio to the nearest other used one."""
    distances = np.linalg.norm(x[:, None].astype(np.float64) - centroids[None], axis=2)
    own = distances[np.arange(len(x)), labels]
    distances[:, ~used] = np.inf
    distances[np.arange(len(x)), labels] = np.inf
    return np.stack([own, own / distances.min(1)], 1)


class NearnessTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        random = np.random.default_rng(0)
        self.x = random.normal(size=(300, 7)).astype(np.float32)
        self.centroids = random.normal(size=(23, 7)).astype(np.float32)
        self.used = np.arange(23) % 5 != 0

    def test_the_two_nearest_are_those_of_all_pairs_whatever_the_tile(self):
        distances = np.linalg.norm(self.x[:, None] - self.centroids[None], axis=2)
        distances[:, ~self.used] = np.inf
        for tile_bytes in (1, 4 * 7 * 5, 1 << 20):
            with mock.patch.object(nearness, "_TILE_BYTES", tile_bytes):
                labels, distance, ratio = nearness.two_nearest(self.x, self.centroids, self.used)
            self.assertAllEqual(labels, distances.argmin(1))
            two = np.sort(distances, 1)[:, :2]
            self.assertAllClose(distance, two[:, 0], rtol=1e-5)
            self.assertAllClose(ratio, two[:, 0] / two[:, 1], rtol=1e-5)

    def test_of_given_labels_the_own_centroid_counts_though_another_is_nearer(self):
        labels = np.random.default_rng(1).choice(np.flatnonzero(self.used), len(self.x))
        found = np.stack(nearness.of_labels(self.x, labels, self.centroids, self.used), 1)
        expected = brute_force(self.x, labels, self.centroids, self.used)
        self.assertAllClose(found, expected, rtol=1e-4)
        self.assertGreater(found[:, 1].max(), 1)

    def test_each_problem_has_centroids_of_its_own(self):
        first, second = np.arange(0, 300, 2), np.arange(1, 300, 4)
        problems = []
        for members, seed in ((first, 2), (second, 3)):
            centroids = np.random.default_rng(seed).normal(size=(4, 7)).astype(np.float32)
            used = np.ones(4, bool)
            labels = nearness.two_nearest(self.x[members], centroids, used)[0]
            problems.append((members, labels, centroids, used))
        with mock.patch.object(nearness, "CHUNK_BYTES", 4 * 7 * 11):
            found = nearness.of_points(as_points(self.x), problems)
        for members, labels, centroids, used in problems:
            expected = brute_force(self.x[members], labels, centroids, used)
            self.assertAllClose(found[members], expected, rtol=1e-4)
        self.assertAllEqual(np.isnan(found[:, 0]), np.arange(300) % 4 == 3)

    def test_without_another_centroid_the_ratio_is_0(self):
        alone = np.zeros(23, bool)
        alone[4] = True
        labels, distance, ratio = nearness.two_nearest(self.x, self.centroids, alone)
        self.assertAllEqual(labels, np.full(300, 4))
        self.assertAllEqual(ratio, np.zeros(300))
        own = nearness.of_labels(self.x, labels, self.centroids[4:5].repeat(23, 0), alone)
        self.assertAllClose(own[0], distance)
        self.assertAllEqual(own[1], np.zeros(300))


if __name__ == "__main__":
    tf.test.main()
