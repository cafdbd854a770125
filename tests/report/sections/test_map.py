"""The map of centroids."""

import numpy as np
import tensorflow as tf

from dc_tf.report.sections import map as map_lib
from dc_tf.report.sections.clusters import Cluster, Dominant


def cluster(number, size, label=None):
    dominant = {} if label is None else {"label": Dominant("label", label, 1.0, size)}
    return Cluster(number, str(number), size, dominant, None, None, (9, 9, 9), 1.0)


class MapTest(tf.test.TestCase):
    def test_two_dimensions_of_a_plane_keep_their_distances(self):
        rng = np.random.default_rng(0)
        flat = rng.normal(size=(12, 2)) * [5, 1]
        basis, _ = np.linalg.qr(rng.normal(size=(9, 2)))
        found = map_lib.principal(np.float32(flat @ basis.T), 2)
        distances = [np.linalg.norm(p[:, None] - p[None], axis=2) for p in (flat, found)]
        self.assertAllClose(*distances, rtol=1e-3, atol=1e-3)

    def test_each_dot_is_at_its_own_centroid(self):
        centroids = np.float32([[0, 0], [9, 9], [10, 0], [9, 9], [5, 0]])
        shown = [cluster(4, 10, "cat"), cluster(0, 30, "dog"), cluster(2, 20, "cat")]
        made = map_lib.make(shown, centroids.__getitem__, ["label"])
        self.assertEqual([dot.cluster.number for dot in made.dots], [0, 2, 4])
        first, second, middle = (dot.x for dot in made.dots)
        self.assertAlmostEqual(middle, (first + second) / 2, delta=0.2)
        self.assertGreater(made.dots[0].radius, made.dots[2].radius)
        self.assertEqual(made.legends["label"], ["dog", "cat", "other or unknown"])
        self.assertEqual([dot.classes for dot in made.dots], [[0], [1], [1]])

    def test_a_map_needs_three_clusters_and_takes_equal_ones(self):
        self.assertIsNone(map_lib.make([cluster(0, 1), cluster(1, 1)], np.eye(2).__getitem__, []))
        made = map_lib.make([cluster(n, 1) for n in range(3)], np.ones((3, 4)).__getitem__, [])
        self.assertLen(made.dots, 3)
        self.assertTrue(all(np.isfinite([dot.x, dot.y]).all() for dot in made.dots))

    def test_the_smallest_of_many_are_left_out(self):
        many = [cluster(n, 1 + n) for n in range(map_lib.MOST + 5)]
        made = map_lib.make(
            many, np.random.default_rng(0).normal(size=(len(many), 3)).__getitem__, []
        )
        self.assertLen(made.dots, map_lib.MOST)
        self.assertEqual(made.left_out, 5)
        self.assertEqual(made.dots[0].cluster.number, len(many) - 1)


if __name__ == "__main__":
    tf.test.main()
