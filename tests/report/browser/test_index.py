"""The order of rows by cluster and distance, statistics of clusters, and labels of rounds."""

import os
import tempfile
from unittest import mock

import clustered
import numpy as np
import tensorflow as tf

from dc_tf.curation.clusters import outliers
from dc_tf.curation.clusters.open import of_run
from dc_tf.report.browser import index as index_lib
from dc_tf.report.browser.index import ClusterIndex
from dc_tf.report.browser.overview import Filter, chosen
from dc_tf.report.browser.rounds import Rounds


class IndexTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        self.data = clustered.write_data(self.path("data"))
        rng = np.random.default_rng(0)
        self.cluster = rng.integers(0, 7, clustered.ROWS) % 6  # 6 is empty
        self.cluster[0] = 7
        self.distance = rng.random(clustered.ROWS).astype(np.float32)

    def path(self, name):
        return os.path.join(self.folder, name)

    def clustering(self, **changes):
        given = {"distance": self.distance} | changes
        return clustered.clustering(self.data, self.cluster, **given)

    def index(self, **changes):
        return ClusterIndex.of(self.clustering(**changes), self.path("index"))

    def test_members_are_sorted_by_distance_however_many_passes_there_are(self):
        for rows in (1, 13, 1000):
            with mock.patch.object(index_lib, "_PASS_ROWS", rows):
                found = ClusterIndex.of(self.clustering(), self.path(f"index-{rows}"))
            for cluster in range(8):
                own = np.flatnonzero(self.cluster == cluster)
                expected = own[np.argsort(self.distance[own])]
                self.assertAllEqual(found.members(cluster), expected)
            self.assertAllEqual(found.flat, self.cluster)
            self.assertAllEqual(found.distance, self.distance)

    def test_figures_are_those_of_the_rows(self):
        found = self.index()
        labels = np.arange(clustered.ROWS) % 2
        for cluster in range(8):
            own = self.cluster == cluster
            self.assertEqual(found.sizes[cluster], own.sum())
            if own.any():
                counts = np.bincount(labels[own], minlength=2)
                self.assertAllClose(found.spread[cluster], self.distance[own].mean())
                self.assertAllClose(found.purity[cluster], counts.max() / own.sum())
                self.assertEqual(found.label[cluster], counts.argmax())
        self.assertAllEqual(np.isnan(found.spread), found.sizes == 0)

    def test_the_farthest_are_those_of_the_rule_for_outliers(self):
        self.distance[7] = 1000
        found = self.index()
        clustering = clustered.clustering(self.data, self.cluster, distance=self.distance)
        statistics = outliers.distance_statistics(clustering)
        expected, count = outliers.farthest(clustering, statistics, clustering.sizes(), 5)
        self.assertAllEqual(found.farthest[:5], [row for row, _, _ in expected])
        self.assertAllClose(found.deviations(found.farthest[:5]), [far for *_, far in expected])
        self.assertEqual((found.outliers, count), (1, 1))
        self.assertNotIn(0, found.farthest)

    def test_it_is_made_once_and_anew_for_other_labels(self):
        self.index()
        with mock.patch.object(index_lib, "_build", side_effect=AssertionError):
            self.index()
        self.cluster[1] = (self.cluster[1] + 1) % 6
        self.assertAllEqual(self.index().flat, self.cluster)
        changed = self.index(distance=self.distance[::-1].copy())
        self.assertAllEqual(changed.distance, self.distance[::-1])

    def test_without_distances_rows_are_in_their_own_order(self):
        found = self.index(distance=None)
        self.assertAllEqual(found.members(2), np.flatnonzero(self.cluster == 2))
        self.assertIsNone(found.distance)
        self.assertTrue(np.isnan(found.spread).all())
        self.assertEmpty(found.farthest)
        self.assertEqual(found.outliers, 0)

    def test_an_interrupted_one_is_made_again(self):
        with mock.patch.object(index_lib, "_Statistics", side_effect=KeyboardInterrupt):
            with self.assertRaises(KeyboardInterrupt):
                self.index()
        self.assertAllEqual(self.index().flat, self.cluster)

    def test_clusters_are_sorted_with_unknown_ones_last(self):
        found = self.index()
        for sort, key in (
            ("largest", -found.sizes),
            ("purest", -found.purity),
            ("loose", -found.spread),
            ("tight", found.spread),
        ):
            numbers = chosen(found, Filter(sort=sort), 1, ("cat", "dog"))
            self.assertNotIn(6, numbers)
            self.assertAllEqual(key[numbers], np.sort(key[found.sizes > 0]))
        by_name = chosen(found, Filter(text="DOG"), 1, ("cat", "dog"))
        self.assertAllEqual(np.sort(by_name), np.flatnonzero(found.label == 1))
        self.assertEqual(chosen(found, Filter(text="3"), 1, None).tolist(), [3])
        tiny = np.flatnonzero((found.sizes > 0) & (found.sizes < outliers.TINY))
        self.assertIn(7, tiny)  # which has row 0 only
        self.assertCountEqual(chosen(found, Filter(kind="tiny"), 1, None), tiny)
        self.assertEmpty(chosen(found, Filter(kind="single"), 1, None))
        single = np.arange(8) == 2
        self.assertAllEqual(chosen(found, Filter(kind="single"), 1, None, single), [2])
        self.assertEmpty(chosen(found, Filter(text="99"), 1, None))

    def test_a_row_has_its_place_in_every_round(self):
        path = clustered.write_run(self.path("run"), self.data, rounds=3)
        run = of_run(path, round_index=1)
        rounds = Rounds.of(run, self.path("rounds"))
        places = rounds.places(9)  # cluster 9 % 2, sub-cluster (9 // 2 + round) % 3
        self.assertEqual([one.title for one in places], ["1.1", "1.2", "1.0"])
        self.assertEqual([one.shown for one in places], [False, True, False])
        with mock.patch("dc_tf.report.browser.rounds.open_round", side_effect=AssertionError):
            again = Rounds.of(run, self.path("rounds"))
        self.assertEqual(again.places(9), places)
        self.assertEmpty(Rounds.of(None, self.path("none")).places(9))


if __name__ == "__main__":
    tf.test.main()
