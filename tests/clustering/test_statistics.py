"""Statistics of cluster sizes against closed forms, and the warnings that follow from them."""

import warnings

import numpy as np
import tensorflow as tf
from sklearn import metrics

from dc_tf.clustering import statistics

CLUSTER = np.array([0, 0, 0, 1, 1, 3], np.int32)


class StatisticsTest(tf.test.TestCase):
    def test_even_clusters_have_imbalance_one_and_entropy_log_k(self):
        found = statistics.count_statistics(np.full(8, 5))
        self.assertNear(found["imbalance_factor"], 1.0, 1e-12)
        self.assertNear(found["entropy"], np.log(8), 1e-12)
        alone = statistics.count_statistics(np.array([7, 0, 0]))
        self.assertEqual((alone["imbalance_factor"], alone["entropy"]), (3.0, 0.0))

    def test_sizes_are_counted_by_powers_of_two(self):
        sizes = [0, 0, 1, 2, 3, 4, 7, 8, 15, 16, 1023, 1024]
        rng = np.random.default_rng(0)
        expected = [2, 1, 2, 2, 2, 1, 0, 0, 0, 0, 1, 1]
        self.assertEqual(statistics.size_histogram(rng.permutation(sizes)), expected)
        self.assertEqual(statistics.size_histogram([0, 0]), [2])

    def test_healthy_clusters_are_no_reason_to_warn(self):
        rng = np.random.default_rng(0)
        for m, k in ((4, 100), (1, 50), (8, 1)):
            self.assertEqual(statistics.collapse_warnings(rng.poisson(20, (m, k))), [])
        self.assertEqual(statistics.collapse_warnings(np.array([[70], [30]])), [])
        # An empty cluster has empty sub-clusters by nature.
        self.assertEqual(statistics.collapse_warnings(np.array([[5, 6], [5, 6], [0, 0]])), [])

    def test_a_collapse_is_reported_in_plain_words(self):
        even = np.full((4, 10), 5)
        one_cluster = even * np.array([[1], [20], [1], [1]])
        one_sub = even.copy()
        one_sub[2, 0] = 200
        empty = np.where(np.arange(10) < 4, even, 0)
        for counts, message in (
            (one_cluster, "cluster 1 holds 87% of all rows"),
            (one_sub, "in 1 of 4 clusters one sub-cluster holds most rows, up to 82%"),
            (empty, r"24 of 40 sub-clusters are empty: .* \(80 rows in all\)"),
        ):
            (warning,) = statistics.collapse_warnings(counts)
            self.assertRegex(warning, message)
        self.assertLen(statistics.collapse_warnings(np.array([[97, 0, 0], [1, 0, 0]])), 3)

    def test_uninformative_clusters_of_any_rows_are_reported_in_plain_words(self):
        self.assertEqual(statistics.size_warnings(np.full(10, 5)), [])
        self.assertEqual(statistics.size_warnings(np.zeros(10)), [])
        (crowded,) = statistics.size_warnings(np.array([1, 1, 97, 1]))
        self.assertIn("cluster 2 holds 97% of all rows", crowded)
        (empty,) = statistics.size_warnings(np.array([5, 5, 5, 0, 0, 0, 0]))
        self.assertIn("4 of 7 clusters are empty", empty)

    def test_nmi_knows_the_same_partition_and_an_independent_one(self):
        self.assertNear(statistics.nmi(CLUSTER, 10 - CLUSTER), 1.0, 1e-9)
        a, b = np.divmod(np.arange(16), 4)
        self.assertNear(statistics.nmi(a, b), 0.0, 1e-9)

    def test_agreement_of_labellings_is_that_of_sklearn(self):
        rng = np.random.default_rng(0)
        same, one, none = np.arange(9) // 3, np.zeros(9, np.int64), np.zeros(0, np.int64)
        pairs = [(same, same), (same, one), (one, one), (none, none), (same, np.arange(9))]
        for rows in (2, 10, 1000):
            for labels in (2, 7, 900):
                a = rng.integers(0, labels, rows) - 3
                pairs.append((a, np.where(rng.random(rows) < 0.5, a, rng.permutation(a))))
        for a, b in pairs:
            ours = statistics.nmi(a, b), statistics.adjusted_rand(a, b)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of many classes, which a test of theirs dislikes
                theirs = (
                    metrics.normalized_mutual_info_score(a, b),
                    metrics.adjusted_rand_score(a, b),
                )
            self.assertAllClose(ours, theirs, rtol=1e-9, atol=1e-12)

    def test_pairs_of_many_rows_are_counted_exactly(self):
        a = np.arange(400_000) % 2  # products of numbers of pairs exceed 64 bits
        b = np.arange(400_000) // 2 % 2
        self.assertNear(statistics.adjusted_rand(a, b), 0.0, 1e-5)
        self.assertEqual(statistics.adjusted_rand(a, 1 - a), 1.0)


if __name__ == "__main__":
    tf.test.main()
