"""Rules on rows by their cluster, against what a loop over clusters gives."""

import unittest
from unittest import mock

import numpy as np

from dc_tf.curation.selection import rules
from dc_tf.curation.selection.rules import Selection
from dc_tf.curation.tree.tree import Tree

#                  rows of cluster 0        1        2   3
LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3], np.int32)
DISTANCES = np.array([1, 2, 3, 4, 5, 6, 9, 9, 9, 1, 1, 0], np.float32)


def selection(**options):
    return Selection(12, Tree(LABELS, (), DISTANCES), **options)


class SelectionTest(unittest.TestCase):
    def test_outliers_are_the_farthest_share(self):
        chosen = selection()
        chosen.drop_outliers(0.34)  # of 12, so 4
        self.assertEqual(chosen.row_ids().tolist(), [0, 1, 2, 3, 4, 9, 10, 11])
        self.assertEqual(chosen.steps, [{"rule": "drop_outliers", "rows": 8}])

    def test_the_sparsest_clusters_go_as_a_whole(self):
        chosen = selection()
        chosen.drop_sparsest(0.25)
        self.assertEqual(chosen.row_ids().tolist(), [0, 1, 2, 3, 4, 5, 9, 10, 11])
        chosen = selection()
        chosen.drop_sparsest(0.24)  # cluster 1 is more than that
        self.assertTrue(chosen.kept.all())

    def test_the_rarest_clusters_go_as_a_whole(self):
        chosen = selection()
        chosen.drop_rarest(0.3)
        self.assertEqual(np.unique(LABELS[chosen.kept]).tolist(), [0, 1])

    def test_a_cluster_keeps_at_most_so_many_the_nearest_when_asked(self):
        chosen = selection(choice="nearest")
        chosen.at_most(2)
        self.assertEqual(chosen.row_ids().tolist(), [0, 1, 6, 7, 9, 10, 11])
        drawn = [selection(seed=seed) for seed in range(6)]
        for one in drawn:
            one.at_most(2)
            self.assertEqual(np.bincount(LABELS[one.kept]).tolist(), [2, 2, 2, 1])
        self.assertGreater(len({tuple(one.row_ids()) for one in drawn}), 2)

    def test_balance_takes_exactly_the_target_from_rows_that_are_left(self):
        chosen = selection()
        chosen.keep("rows", LABELS != 2)
        chosen.balance(7)
        self.assertEqual(np.bincount(LABELS[chosen.kept], minlength=4).tolist(), [3, 3, 0, 1])
        chosen.balance(100)
        self.assertEqual([step["rows"] for step in chosen.steps], [10, 7, 7])

    def test_parts_of_the_clusters_at_a_time_choose_the_same(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 40, 3000).astype(np.int32)
        found = []
        for rows_at_once in (rules._ROWS_AT_ONCE, 70, 1):
            with mock.patch.object(rules, "_ROWS_AT_ONCE", rows_at_once):
                chosen = Selection(3000, Tree(labels))
                chosen.balance(777)
                found.append(chosen.row_ids())
        self.assertEqual(len(found[0]), 777)
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[0], found[2])

    def test_upper_levels_share_first(self):
        tree = Tree(LABELS, (np.array([0, 0, 0, 1], np.int32),), DISTANCES)
        chosen = Selection(12, tree)
        chosen.balance(4)
        self.assertEqual(np.bincount(LABELS[chosen.kept]).tolist(), [1, 1, 1, 1])
        chosen = Selection(12, Tree(LABELS, (np.array([0, 1, 1, 1], np.int32),), DISTANCES))
        chosen.balance(6)
        self.assertEqual(np.bincount(LABELS[chosen.kept]).tolist(), [3, 1, 1, 1])


if __name__ == "__main__":
    unittest.main()
