"""Which rows are read: bounded, spread and of the clusters that are looked at."""

import os
import tempfile
from unittest import mock

import clustered
import numpy as np
import tensorflow as tf

from dc_tf.curation.clusters import open as source
from dc_tf.report import sample


class SampleTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.data = clustered.write_data(os.path.join(tempfile.mkdtemp(), "data"), rows=200)

    def setUp(self):
        super().setUp()
        self.enterContext(mock.patch.object(source, "BLOCK", 64))  # several blocks

    def clustering(self, cluster, **changes):
        return clustered.clustering(self.data, cluster, **changes)

    def test_all_rows_of_a_small_data_set_are_read(self):
        chosen = sample.choose(self.clustering(np.arange(200) % 4), np.full(4, 50), 200)
        self.assertAllEqual(chosen.rows, np.arange(200))
        self.assertTrue(chosen.whole)
        self.assertAllEqual(chosen.clusters, [0, 1, 2, 3])

    def test_of_many_rows_half_is_spread_and_half_is_of_some_clusters(self):
        clustering = self.clustering(np.arange(200) % 20)
        with mock.patch.object(sample, "MEMBERS", 5):
            chosen = sample.choose(clustering, clustering.sizes(), 80)
        self.assertFalse(chosen.whole)
        self.assertLessEqual(len(chosen.rows), 80)
        self.assertEqual(chosen.spread.sum(), 40)
        self.assertAllEqual(chosen.rows[chosen.spread], np.linspace(0, 199, 40).astype(int))
        self.assertLen(chosen.clusters, 8)
        members = chosen.rows[~chosen.spread] % 20
        self.assertLessEqual(set(members.tolist()), set(chosen.clusters.tolist()))
        for cluster in chosen.clusters:
            self.assertGreaterEqual(np.count_nonzero(chosen.rows % 20 == cluster), 5)

    def test_the_largest_and_the_smallest_clusters_are_looked_at(self):
        sizes = np.arange(1, 20)
        cluster = np.repeat(np.arange(19), sizes)
        clustering = self.clustering(np.append(cluster, np.full(200 - len(cluster), 18)))
        with mock.patch.object(sample, "MEMBERS", 5):
            chosen = sample.choose(clustering, clustering.sizes(), 80)
        self.assertIn(18, chosen.clusters)
        self.assertIn(0, chosen.clusters)

    def test_the_least_of_each_cluster_are_those_of_a_sort(self):
        rng = np.random.default_rng(0)
        cluster, distance = rng.integers(0, 7, 200), rng.random(200).astype(np.float32)
        clustering = self.clustering(cluster, distance=distance)
        found = sample.least_of_each(clustering, np.array([1, 4]), 3, sample.by_distance)
        self.assertCountEqual(found, [1, 4])
        for number, rows in found.items():
            own = np.flatnonzero(cluster == number)
            self.assertAllEqual(rows, own[np.argsort(distance[own])][:3])

    def test_random_members_are_the_same_for_the_same_seed(self):
        clustering = self.clustering(np.arange(200) % 3)
        first, again, other = (
            sample.least_of_each(clustering, np.arange(3), 9, sample.at_random(seed))[2].tolist()
            for seed in (0, 0, 1)
        )
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)
        self.assertLen(set(first), 9)


if __name__ == "__main__":
    tf.test.main()
