"""Two-level k-means against its parts, on one and several workers."""

import json
import os
import tempfile
import unittest.mock

import numpy as np
import tensorflow as tf
import workers

from dc_tf.clustering.feature_store import FeatureStore
from dc_tf.clustering.hierarchy import hierarchical_kmeans, passes
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import ConfigError, DataError


def separated(sizes, dim=4, seed=0):
    """(sum(sizes), dim) float32 rows of far-away clouds, in turn, and the cloud of each."""
    rng = np.random.default_rng(seed)
    cloud = np.repeat(np.arange(len(sizes)), sizes)
    rng.shuffle(cloud)
    x = rng.normal(size=(len(cloud), dim)) + 100 * np.eye(len(sizes), dim)[cloud]
    return x.astype(np.float32), cloud


def cluster_share(comm, x, clusters, sub_clusters):
    block = np.array_split(x, comm.size)[comm.rank]
    return hierarchical_kmeans(block, clusters, sub_clusters, comm, seed=4)


def error_of_share(comm, x):
    try:
        cluster_share(comm, x, 2, 2)
    except DataError as error:
        return str(error)


class HierarchyTest(tf.test.TestCase):
    def test_any_number_of_workers_finds_the_same_labels(self):
        x = np.random.default_rng(1).normal(size=(600, 6)).astype(np.float32)
        alone = hierarchical_kmeans(x, 3, 5, Solo(), seed=4)
        for n in (2, 4):
            results = workers.on_workers(n, cluster_share, x, 3, 5)
            self.assertAllEqual(np.concatenate([r.cluster for r in results]), alone.cluster)
            self.assertAllEqual(np.concatenate([r.sub for r in results]), alone.sub)
            for result in results:
                self.assertEqual(result.report, results[0].report)
                self.assertAllClose(
                    result.report["level1"]["objective"],
                    alone.report["level1"]["objective"],
                    rtol=1e-6,
                )

    def test_sub_clusters_fit_the_rows_of_their_own_cluster(self):
        x, _ = separated([200, 200, 200])
        result = hierarchical_kmeans(x, 3, 4, Solo())
        objective = 0.0
        for c in range(3):
            for s in range(4):
                rows = x[(result.cluster == c) & (result.sub == s)]
                self.assertNotEmpty(rows)
                objective += np.sum((rows - rows.mean(axis=0)) ** 2)
        reported = sum(level["objective"][-1] for level in result.report["level2"])
        self.assertLess(objective, reported)
        self.assertLess(reported, 1.02 * objective)  # a step of Lloyd away from the means
        self.assertLess(reported, 0.8 * result.report["level1"]["objective"][-1])

    def test_one_cluster_skips_the_first_level_and_no_sub_clusters_the_second(self):
        x, _ = separated([50, 50])
        flat = hierarchical_kmeans(x, 1, 2, Solo())
        self.assertIsNone(flat.report["level1"])
        self.assertAllEqual(flat.cluster, np.zeros(100))
        self.assertAllEqual(np.unique(flat.sub), [0, 1])
        top = hierarchical_kmeans(x, 2, 0, Solo())
        self.assertEqual(top.report["level2"], [])
        self.assertAllEqual(np.unique(top.cluster), [0, 1])
        self.assertAllEqual(top.sub, np.zeros(100))
        none = hierarchical_kmeans(x, 1, 0, Solo())
        self.assertAllEqual(none.cluster + none.sub, np.zeros(100))

    def test_an_empty_cluster_has_only_empty_sub_clusters(self):
        x = np.repeat(np.eye(3, 4, dtype=np.float32), [30, 20, 10], axis=0)
        result = hierarchical_kmeans(x, 5, 2, Solo())
        rows = [level["rows"] for level in result.report["level2"]]
        self.assertAllEqual(np.sort(rows), [0, 0, 10, 20, 30])
        self.assertEqual(result.report["level1"]["empty"], 2)
        empty = [level["empty"] for level in result.report["level2"] if not level["rows"]]
        self.assertEqual(empty, [2, 2])

    def test_a_cluster_smaller_than_its_sub_clusters_gives_each_row_one(self):
        x, cloud = separated([300, 6])
        result = hierarchical_kmeans(x, 2, 20, Solo(), seed=1)
        small = result.cluster == result.cluster[cloud == 1][0]
        self.assertEqual(small.sum(), 6)
        self.assertLen(np.unique(result.sub[small]), 6)

    def test_all_rows_equal_end_in_one_sub_cluster(self):
        result = hierarchical_kmeans(np.ones((40, 3), np.float32), 4, 3, Solo())
        self.assertAllEqual(result.cluster, np.zeros(40))
        self.assertAllEqual(result.sub, np.zeros(40))

    def test_a_store_on_disk_gives_what_its_rows_in_memory_give(self):
        x = np.random.default_rng(2).normal(size=(300, 4)).astype(np.float16)
        store = FeatureStore.create(
            os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "s"), 300, 4
        )
        store.write(0, x)
        on_disk = hierarchical_kmeans(store, 3, 4, Solo())
        in_memory = hierarchical_kmeans(x.astype(np.float32), 3, 4, Solo())
        self.assertAllEqual(on_disk.cluster, in_memory.cluster)
        self.assertAllEqual(on_disk.sub, in_memory.sub)

    def test_progress_adds_up_to_the_announced_passes(self):
        x, _ = separated([60, 30])
        for m, k in ((2, 3), (1, 3), (2, 0)):
            progress = unittest.mock.Mock()
            hierarchical_kmeans(x, m, k, Solo(), iterations=2, on_progress=progress)
            rows = sum(call.args[0] for call in progress.call_args_list)
            self.assertEqual(rows, 90 * passes(m, k, 2))

    def test_the_report_is_json(self):
        x, _ = separated([60, 30])
        json.dumps(hierarchical_kmeans(x, 2, 3, Solo()).report)

    def test_a_bad_row_is_named_on_all_workers(self):
        x, _ = separated([60, 30])
        x[70] = np.nan
        for message in workers.on_workers(2, error_of_share, x):
            self.assertIn("row 70", message)

    def test_impossible_settings_are_refused(self):
        for m, k in ((0, 3), (2, -1)):
            with self.assertRaises(ConfigError):
                hierarchical_kmeans(np.ones((4, 2), np.float32), m, k, Solo())
