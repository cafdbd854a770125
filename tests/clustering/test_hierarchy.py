"""Two-level k-means against its parts, on one and several workers."""

import json
import os
import tempfile
import unittest.mock

import numpy as np
import pytest
import tensorflow as tf
import workers

from dc_tf.clustering import hierarchy
from dc_tf.clustering.hierarchy import hierarchical_kmeans
from dc_tf.clustering.resume import Snapshots
from dc_tf.clustering.store.feature_store import FeatureStore
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import ConfigError, DataError

pytestmark = pytest.mark.numeric


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

    def test_further_clusterings_leave_the_first_as_it_is_and_differ_from_it(self):
        x = np.random.default_rng(1).normal(size=(600, 6)).astype(np.float32)
        for clusters in (1, 3):
            one = hierarchical_kmeans(x, clusters, 5, Solo(), seed=4)
            centroids = {}
            three = hierarchical_kmeans(
                x,
                clusters,
                5,
                Solo(),
                seed=4,
                clusterings=3,
                on_centroids=lambda level, index, c, kept=centroids: kept.update(
                    {(level, index): c}
                ),
            )
            for name in ("cluster", "sub", "counts"):
                self.assertAllEqual(getattr(one, name), getattr(three, name))
            self.assertEqual(one.further.shape, (600, 0))
            self.assertEqual(three.further.shape, (600, 2))
            subs = np.column_stack([three.sub, three.further])
            counts = np.concatenate([three.counts, three.further_counts])
            for a, b in ((0, 1), (0, 2), (1, 2)):
                self.assertGreater(np.mean(subs[:, a] != subs[:, b]), 0.3)
            for problem, count in enumerate(counts):
                clustering, cluster = divmod(problem, clusters)
                own = three.cluster == cluster
                labels = subs[own, clustering]
                self.assertAllEqual(count, np.bincount(labels, minlength=5))
                away = x[own][:, np.newaxis] - centroids[2, problem]
                self.assertAllEqual(labels, np.argmin(np.sum(away**2, axis=2), axis=1))

    def test_further_clusterings_start_from_their_previous_labels(self):
        x = np.random.default_rng(1).normal(size=(600, 6)).astype(np.float32)
        first = hierarchical_kmeans(x, 2, 5, Solo(), seed=4, clusterings=2, iterations=30)
        previous = (first.cluster, np.column_stack([first.sub, first.further]))
        again = hierarchical_kmeans(
            x,
            2,
            5,
            Solo(),
            seed=9,
            clusterings=2,
            init="previous",
            previous=previous,
            iterations=1,
        )
        self.assertGreater(np.mean(again.sub == first.sub), 0.95)
        self.assertGreater(np.mean(again.further == first.further), 0.95)

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

    def test_progress_adds_up_to_one_pass_more_than_iterations_at_each_level(self):
        x = np.random.default_rng(1).normal(size=(90, 6)).astype(np.float32)
        for m, k, levels in ((2, 3, {1, 2}), (1, 3, {2}), (2, 0, {1})):
            for tolerance in (0, 0.5):  # with it, passes are left out
                work = Passes()
                hierarchical_kmeans(
                    x, m, k, Solo(), iterations=4, tolerance=tolerance, on_progress=work
                )
                self.assertEqual(work.rows, dict.fromkeys(levels, 90 * 5))
                self.assertEqual(work.skipped > 0, tolerance > 0)

    def test_the_report_comes_back_from_json_with_both_levels(self):
        x, _ = separated([60, 30])
        report = hierarchical_kmeans(x, 2, 3, Solo()).report
        self.assertEqual(json.loads(json.dumps(report)), report)
        self.assertLen(report["level2"], 2)
        for level in (report["level1"], *report["level2"]):
            objective = level["objective"]
            self.assertLessEqual(objective[-1], objective[0])

    @pytest.mark.merge
    @pytest.mark.slow
    def test_counts_are_those_of_the_labels_of_all_workers(self):
        x = np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32)
        for m, k in ((3, 4), (1, 4), (3, 0)):
            results = workers.on_workers(2, cluster_share, x, m, k)
            cluster, sub = (np.concatenate([r[i] for r in results]) for i in range(2))
            expected = np.zeros((m, max(1, k)))
            np.add.at(expected, (cluster, sub), 1)
            for result in results:
                self.assertAllEqual(result.counts, expected)

    def test_a_bad_row_is_named_on_all_workers(self):
        x, _ = separated([60, 30])
        x[70] = np.nan
        for message in workers.on_workers(2, error_of_share, x):
            self.assertIn("row 70", message)

    def test_impossible_settings_are_refused(self):
        for m, k in ((0, 3), (2, -1)):
            with self.assertRaises(ConfigError):
                hierarchical_kmeans(np.ones((4, 2), np.float32), m, k, Solo())


class PreviousTest(tf.test.TestCase):
    """Warm starts from the last round's labels."""

    def test_both_levels_start_from_the_means_of_the_rows_by_their_last_labels(self):
        x, cluster, sub = last_round()
        expected_cluster = nearest(x, means(x, cluster, 3))
        expected_sub = np.zeros_like(sub)
        for c in range(3):
            members = np.flatnonzero(expected_cluster == c)
            stayed = members[cluster[members] == c]
            centroids = means(x[stayed], sub[stayed], 4)
            expected_sub[members] = nearest(x[members], centroids)
        self.assertGreater(np.count_nonzero(expected_cluster != cluster), 0)
        for results in ([start_again(Solo(), x, cluster, sub)], self.on_two(x, cluster, sub)):
            self.assertAllEqual(np.concatenate([r.cluster for r in results]), expected_cluster)
            self.assertAllEqual(np.concatenate([r.sub for r in results]), expected_sub)

    def on_two(self, x, cluster, sub):
        return workers.on_workers(2, start_again, x, cluster, sub)

    def test_a_cluster_that_no_row_stayed_in_starts_from_some_row(self):
        x, cluster, sub = last_round()
        sub[sub == 3] = 0
        result = hierarchical_kmeans(x, 3, 4, Solo(), init="previous", previous=(cluster, sub))
        self.assertEqual([level["empty"] for level in result.report["level2"]], [0, 0, 0])

    def test_without_a_last_round_the_start_is_random(self):
        x, _, _ = last_round()
        first = hierarchical_kmeans(x, 3, 4, Solo(), init="previous")
        self.assertAllEqual(first.sub, hierarchical_kmeans(x, 3, 4, Solo()).sub)


class ResumeTest(tf.test.TestCase):
    """A call that was killed and is made again; iterations = 3, so 4 passes a problem."""

    def setUp(self):
        super().setUp()
        rows = np.random.default_rng(3).normal(size=(300, 6))
        self.x = rows.astype(np.float16)

    def run_until(self, folder, passes=None, **settings):
        """The result and the passes that were begun, by (level, cluster)."""
        work = Passes(stop_after=passes)
        snapshots = Snapshots(folder, Solo(), every_s=0)
        try:
            result = hierarchical_kmeans(
                self.x,
                2,
                3,
                Solo(),
                iterations=3,
                snapshots=snapshots,
                on_progress=work,
                **settings,
            )
        except Stopped:
            result = None
        return result, work

    def assert_same(self, result, expected):
        self.assertEqual(result.cluster.tobytes(), expected.cluster.tobytes())
        self.assertEqual(result.sub.tobytes(), expected.sub.tobytes())
        self.assertAllEqual(result.counts, expected.counts)
        self.assertEqual(result.report, expected.report)

    def test_stopped_in_any_pass_it_resumes_there_and_ends_the_same(self):
        expected, whole = self.run_until(self.folder())
        self.assertLen(whole.passes, 12)
        for passes in range(1, 13):
            folder = self.folder()
            _, before = self.run_until(folder, passes)
            result, after = self.run_until(folder)
            self.assert_same(result, expected)
            # The pass that was stopped is made again, no other.
            self.assertEqual(before.passes[:-1] + after.passes, whole.passes)
            self.assertEqual(after.rows, whole.rows)

    @pytest.mark.bfloat16
    def test_stopped_again_and_again_it_ends_the_same_with_any_settings(self):
        for settings in ({}, {"precision": "bfloat16", "init": "k-means||", "spherical": True}):
            expected, whole = self.run_until(self.folder(), **settings)
            folder, result = self.folder(), None
            for _ in whole.passes:
                self.assertIsNone(result)
                result, _ = self.run_until(folder, 2, **settings)  # one pass is kept, one is lost
            self.assert_same(result, expected)

    def test_a_corrupt_snapshot_costs_one_pass(self):
        expected, whole = self.run_until(self.folder())
        folder = self.folder()
        self.run_until(folder, 7)
        newest = os.path.join(folder, max(os.listdir(folder)))
        os.truncate(newest, os.path.getsize(newest) // 2)
        result, after = self.run_until(folder)
        self.assert_same(result, expected)
        self.assertEqual(after.passes, whole.passes[5:])

    def test_what_is_finished_is_not_done_again(self):
        folder = self.folder()
        expected, _ = self.run_until(folder)
        with unittest.mock.patch.object(hierarchy, "kmeans", side_effect=AssertionError):
            again, work = self.run_until(folder)
        self.assert_same(again, expected)
        self.assertEqual(work.rows, {1: 1200, 2: 1200})

    def folder(self):
        return tempfile.mkdtemp(dir=self.get_temp_dir())


class Stopped(Exception):
    """Stands for a kill."""


class Passes:
    """`on_progress` that counts, for problems of one chunk, and stops after some passes.

    Attributes:
        passes: list of (level, cluster, iteration), in order.
        rows: {level: rows counted}.
        skipped: rows that were not worked on.
    """

    def __init__(self, stop_after=None):
        self.passes = []
        self.rows = {}
        self.skipped = 0
        self._stop_after = stop_after

    def __call__(self, rows, level, skipped, **values):
        self.rows[level] = self.rows.get(level, 0) + rows
        if skipped:
            self.skipped += rows
            return
        if "drawn" in values:  # of the start; no pass over the rows yet
            return
        self.passes.append((level, values["cluster"], values["iteration"]))
        if len(self.passes) == self._stop_after:
            raise Stopped


def last_round():
    """Rows in three clusters of four, near their last labels but not always nearest to them."""
    rng = np.random.default_rng(5)
    cluster = rng.integers(0, 3, 400).astype(np.int32)
    sub = rng.integers(0, 4, 400).astype(np.int32)
    centre = 4 * np.eye(3, 7)[cluster] + 2 * np.eye(4, 7, 3)[sub]
    return (centre + rng.normal(size=(400, 7))).astype(np.float32), cluster, sub


def start_again(comm, x, cluster, sub):
    """Clusters from the last round's labels, without an iteration."""
    x, *previous = (np.array_split(part, comm.size)[comm.rank] for part in (x, cluster, sub))
    return hierarchical_kmeans(
        x, 3, 4, comm, iterations=0, init="previous", previous=tuple(previous)
    )


def means(x, labels, k):
    return np.stack([x[labels == label].mean(axis=0) for label in range(k)])


def nearest(x, centroids):
    return np.argmin(np.sum((x[:, None] - centroids) ** 2, axis=2), axis=1)
