"""Copies by features alone: against all pairs, one by one."""

import os
import tempfile
from unittest import mock

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from dc_tf.curation.duplicates import cluster_rows, near_pairs
from dc_tf.curation.duplicates import find as duplicates
from dc_tf.curation.duplicates.find import Settings, find_duplicates
from dc_tf.curation.duplicates.groups import choose_keepers, connecting, grouped
from dc_tf.curation.features.open import open_features
from dc_tf.errors import ConfigError, DataError


def brute_force(x, threshold):
    """The groups of rows, a set of frozensets, that all pairs connect."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    group = list(range(len(x)))
    for a in range(len(x)):
        for b in range(a):
            if x[a] @ x[b] >= threshold:
                old, new = group[a], group[b]
                group = [new if one == old else one for one in group]
    members = [frozenset(np.flatnonzero(np.array(group) == one).tolist()) for one in set(group)]
    return {one for one in members if len(one) > 1}


def with_copies(n, copies, dim=16, noise=0.05, seed=0):
    """Random rows, some of them followed by slightly different ones, shuffled."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dim))
    sources = rng.integers(0, n, copies)
    x = np.concatenate([x, x[sources] + noise * rng.standard_normal((copies, dim))])
    return rng.permutation(x).astype(np.float32)


class FindTest(parameterized.TestCase, tf.test.TestCase):
    def features(self, x):
        path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "x.npy")
        np.save(path, x)
        return open_features(features=path)

    def find(self, x, labels=None, **settings):
        work = tempfile.mkdtemp(dir=self.get_temp_dir())
        given = None if labels is None else (labels, int(labels.max()) + 1)
        settings = Settings(**{"whiten": 0, "threshold": 0.95} | settings)
        return find_duplicates(self.features(x), settings, work, given)

    def groups(self, found):
        members = [found.rows[found.group == one] for one in np.unique(found.group)]
        return {frozenset(rows.tolist()) for rows in members}

    def test_groups_are_those_of_all_pairs(self):
        x = with_copies(150, 60)
        expected = brute_force(x, 0.95)
        self.assertGreater(len(expected), 30)
        self.assertEqual(self.groups(self.find(x)), expected)

    @parameterized.parameters(0, near_pairs._FEW)
    def test_small_tiles_and_blocks_find_the_same(self, few):
        x = with_copies(150, 60)
        small = {"_TILE": 8, "_BLOCK": 32, "_CACHE_BYTES": 4000, "_MANY": 2, "_FEW": few}
        with mock.patch.multiple(near_pairs, **small):
            for settings in ({}, {"k": 5, "neighbours": 4}):
                found = self.find(x, **settings)
                self.assertEqual(self.groups(found), brute_force(x, 0.95))

    def test_clusters_that_are_all_next_to_each_other_lose_nothing(self):
        x = with_copies(150, 60)
        self.assertEqual(self.groups(self.find(x, k=6, neighbours=5)), brute_force(x, 0.95))
        alone = self.find(x, k=6, neighbours=0)
        self.assertLessEqual(len(alone.dropped), len(self.find(x).dropped))
        self.assertEqual(alone.clusters, 6)

    def test_given_clusters_bound_what_is_compared(self):
        x = np.tile(np.eye(4, dtype=np.float32)[:1], (4, 1))
        labels = np.array([0, 1, 0, 1])
        found = self.find(x, labels, neighbours=0)
        self.assertEqual(self.groups(found), {frozenset({0, 2}), frozenset({1, 3})})
        self.assertEqual(self.groups(self.find(x, labels)), {frozenset(range(4))})

    def test_a_copy_of_a_copy_is_in_the_group_with_its_own_similarity(self):
        angles = np.deg2rad([0, 15, 30, 90])
        x = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
        found = self.find(x, threshold=0.96)
        self.assertAllEqual(np.sort(found.rows), [0, 1, 2])
        self.assertAllEqual(found.keeper, [True, False, False])
        (keeper,) = found.rows[found.keeper]
        self.assertAllClose(found.similarity, x[found.rows] @ x[keeper])
        self.assertAllEqual(found.kind, ["", "near", "near"])

    @parameterized.parameters(0, near_pairs._FEW)
    def test_many_equal_rows_are_one_group(self, few):
        x = np.ones((600, 3), np.float32)
        with mock.patch.multiple(near_pairs, _TILE=64, _BLOCK=128, _MANY=100, _FEW=few):
            found = self.find(x)
        self.assertAllEqual(np.sort(found.rows), np.arange(600))
        self.assertAllEqual(found.dropped, np.arange(1, 600))

    def test_without_copies_nothing_goes(self):
        found = self.find(np.eye(5, dtype=np.float32))
        self.assertEmpty(found.rows)
        self.assertEmpty(found.dropped)

    def test_a_stopped_search_resumes_after_the_last_part(self):
        x = with_copies(150, 60)
        work = tempfile.mkdtemp(dir=self.get_temp_dir())
        features, settings = self.features(x), Settings(0.95, 0, k=5)
        with mock.patch.object(duplicates, "_PART_ROWS", 40):
            whole = find_duplicates(features, settings, work)
            parts = sorted(os.listdir(os.path.join(work, "pairs")))
            self.assertGreater(len(parts), 3)
            os.remove(os.path.join(work, "pairs", parts[1]))
            calls = []
            original = duplicates.near_pairs
            counting = lambda *args: calls.append(args) or original(*args)  # noqa: E731
            with mock.patch.object(duplicates, "near_pairs", counting):
                again = find_duplicates(features, settings, work)
            self.assertLen(calls, 1)
        self.assertAllEqual(again.rows, whole.rows)
        self.assertEqual(self.groups(whole), brute_force(x, 0.95))
        looser = find_duplicates(features, Settings(0.5, 0, k=5), work)
        self.assertEqual(self.groups(looser), brute_force(x, 0.5))

    def test_a_killed_search_keeps_clusters_and_their_rows(self):
        x = with_copies(150, 60)
        work = tempfile.mkdtemp(dir=self.get_temp_dir())
        features, settings = self.features(x), Settings(0.95, 0, k=5, neighbours=4)
        with mock.patch.object(duplicates, "near_pairs", side_effect=KeyboardInterrupt):
            with self.assertRaises(KeyboardInterrupt):
                find_duplicates(features, settings, work)
        again = mock.patch("dc_tf.clustering.kmeans.kmeans", side_effect=AssertionError("again"))
        with again, mock.patch.object(cluster_rows, "_make", side_effect=AssertionError("again")):
            found = find_duplicates(features, settings, work)
        self.assertEqual(self.groups(found), brute_force(x, 0.95))

    def test_what_cannot_work_is_refused(self):
        for text, settings in (
            ("--threshold=1.2; use", {"threshold": 1.2}),
            ("--threshold=0", {"threshold": 0}),
            ("--k=-1", {"k": -1}),
            ("--k=9 clusters need as many rows", {"k": 9}),
        ):
            with self.assertRaisesRegex(ConfigError, text):
                self.find(np.eye(5, dtype=np.float32), **settings)
        broken = np.eye(5, dtype=np.float32)
        broken[3, 1] = np.nan
        with self.assertRaisesRegex(DataError, "row 3 of .*x.npy is not finite"):
            self.find(broken)
        with self.assertRaisesRegex(DataError, "row 1 is in cluster -2"):
            self.find(np.eye(3, dtype=np.float32), np.array([0, -2, 1]))


class GroupsTest(tf.test.TestCase):
    def test_groups_are_numbered_by_their_lowest_row(self):
        rows, group = grouped(np.array([9, 3, 5]), np.array([2, 7, 7]))
        self.assertAllEqual(rows, [2, 3, 5, 7, 9])
        self.assertAllEqual(group, [0, 1, 1, 1, 0])

    def test_connecting_pairs_join_the_same_rows(self):
        rng = np.random.default_rng(0)
        first, second = rng.integers(0, 300, (2, 200))
        fewer = connecting(first, second)
        self.assertLess(len(fewer[0]), len(first))
        kept = first != second
        for a, b in zip(grouped(first[kept], second[kept]), grouped(*fewer), strict=True):
            self.assertAllEqual(a, b)

    def test_the_largest_stays_then_the_most_central_then_the_first(self):
        rows = np.array([3, 5, 6, 7, 8, 9])
        group = np.array([0, 0, 0, 1, 1, 1])
        pixels = np.array([10, 20, 20, 4, 4, 4])
        closeness = np.array([0.9, 0.1, 0.2, 0.5, 0.5, 0.1])
        self.assertAllEqual(rows[choose_keepers(rows, group, pixels, closeness)], [6, 7])


if __name__ == "__main__":
    tf.test.main()
