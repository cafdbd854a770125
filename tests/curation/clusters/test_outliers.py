"""Outliers, tiny clusters and clusters of a single source."""

import tempfile
from unittest import mock

import clustered
import numpy as np
import pyarrow as pa
import tensorflow as tf

from dc_tf.curation.clusters import open as clusters_lib
from dc_tf.curation.clusters import outliers


class OutliersTest(tf.test.TestCase):
    def clustering(self, cluster, distance):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        data = clustered.write_data(f"{folder}/data", rows=len(cluster))
        return clustered.clustering(data, cluster, distance=np.asarray(distance, np.float32))

    def test_statistics_are_those_of_each_cluster_in_any_blocks(self):
        rng = np.random.default_rng(0)
        cluster, distance = rng.integers(0, 3, 40), 1000 + rng.random(40)
        made = self.clustering(cluster, distance)
        expected = [[own.mean(), own.std()] for own in (distance[cluster == n] for n in range(3))]
        for rows in (7, 1 << 20):
            with mock.patch.object(clusters_lib, "BLOCK", rows):
                self.assertAllClose(outliers.distance_statistics(made), expected, rtol=1e-3)

    def test_a_row_beyond_three_deviations_is_an_outlier(self):
        distance = np.ones(30)
        distance[::2] = 1.2
        distance[7] = 2.0
        made = self.clustering(np.zeros(30, int), distance)
        statistics, sizes = outliers.distance_statistics(made), made.sizes()
        beyond = outliers.deviations(distance, made.cluster, statistics, sizes)
        self.assertAllEqual(np.flatnonzero(outliers.is_outlier(beyond)), [7])
        self.assertAllClose(beyond[7], (2.0 - distance.mean()) / distance.std(), rtol=1e-4)
        with mock.patch.object(clusters_lib, "BLOCK", 4):
            found, count = outliers.farthest(made, statistics, sizes, 3)
        self.assertEqual(([row for row, _, _ in found], count), ([7, 0, 2], 1))

    def test_tiny_clusters_and_equal_distances_have_none(self):
        cluster = np.array([0] * 4 + [1] * 20)
        distance = np.array([1, 1, 1, 900.0] + [0.1] * 20)
        made = self.clustering(cluster, distance)
        statistics = outliers.distance_statistics(made)
        beyond = outliers.deviations(distance, cluster, statistics, made.sizes())
        self.assertAllEqual(beyond, np.zeros(24))

    def test_without_distances_there_are_no_statistics(self):
        self.assertIsNone(outliers.distance_statistics(self.clustering_without()))

    def clustering_without(self):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        return clustered.clustering(
            clustered.write_data(f"{folder}/data", rows=6), np.arange(6) % 2
        )


class SourcesTest(tf.test.TestCase):
    def single(self, count, *blocks):
        sources = outliers.Sources(count)
        for clusters, values in blocks:
            sources.add(np.asarray(clusters), pa.array(values))
        return sources.single().tolist()

    def test_one_source_in_all_blocks_is_single(self):
        found = self.single(3, ([0, 0, 1] * 2, list("aab") * 2), ([0, 1, 1, 1], list("abbc")))
        self.assertEqual(found, [True, False, False])

    def test_rows_without_a_source_do_not_count(self):
        few = ([0] * 6, ["a"] * 4 + [None] * 2)
        self.assertEqual(self.single(1, few), [False])
        self.assertEqual(self.single(1, few, ([0], ["a"])), [True])

    def test_numbers_and_lists_are_sources_too(self):
        self.assertEqual(
            self.single(2, ([0] * 5 + [1] * 5, [7] * 5 + [7, 7, 7, 7, 8])), [True, False]
        )
        self.assertEqual(self.single(1, ([0] * 5, [["a", "b"]] * 5)), [True])

    def test_the_column_is_that_of_users(self):
        self.assertEqual(
            outliers.source_column(["camera", "owner", "photographer"]), "photographer"
        )
        self.assertIsNone(outliers.source_column(["camera"]))


if __name__ == "__main__":
    tf.test.main()
