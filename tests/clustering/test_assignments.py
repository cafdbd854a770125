"""Assignments: complete or absent, in the order of row ids."""

import os
import tempfile

import numpy as np
import tensorflow as tf
import workers

from dc_tf.clustering import assignments
from dc_tf.clustering.assignments import Assignments
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import DataError

CLUSTER = np.array([0, 0, 0, 1, 1, 3], np.int32)
SUB = np.array([1, 1, 0, 0, 1, 1], np.int32)


def write_share(comm, folder):
    rows = np.array_split(np.arange(6), comm.size)[comm.rank]
    assignments.write(folder, comm, rows[0], CLUSTER[rows], SUB[rows], 4, 2)
    return Assignments.open(folder).cluster


class AssignmentsTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "round")

    def test_every_worker_reads_what_all_have_written(self):
        for cluster in workers.on_workers(2, write_share, self.folder):
            self.assertAllEqual(cluster, CLUSTER)
        result = Assignments.open(self.folder)
        self.assertAllEqual(result.sub, SUB)
        self.assertEqual((result.clusters, result.sub_clusters), (4, 2))
        self.assertEqual(result.cluster.dtype, np.int32)

    def test_blocks_without_the_list_are_absent(self):
        assignments.write_block(self.folder, 0, 2, 0, CLUSTER[:3], SUB[:3])
        with self.assertRaisesRegex(DataError, "no complete assignments"):
            Assignments.open(self.folder)
        with self.assertRaisesRegex(DataError, "lacks a block"):
            assignments.commit(self.folder, 2, 4, 2)
        self.assertFalse(assignments.is_complete(self.folder))
        assignments.write_block(self.folder, 1, 2, 3, CLUSTER[3:], SUB[3:])
        assignments.commit(self.folder, 2, 4, 2)
        self.assertTrue(assignments.is_complete(self.folder))
        self.assertAllEqual(Assignments.open(self.folder).cluster, CLUSTER)

    def test_blocks_that_do_not_join_are_refused(self):
        assignments.write_block(self.folder, 0, 2, 0, CLUSTER[:3], SUB[:3])
        assignments.write_block(self.folder, 1, 2, 4, CLUSTER[4:], SUB[4:])
        with self.assertRaisesRegex(DataError, "starts at row 4, not at 3"):
            assignments.commit(self.folder, 2, 4, 2)

    def test_a_worker_without_rows_has_an_empty_block(self):
        assignments.write_block(self.folder, 0, 2, 0, CLUSTER, SUB)
        assignments.write_block(self.folder, 1, 2, 6, CLUSTER[:0], SUB[:0])
        assignments.commit(self.folder, 2, 4, 2)
        self.assertAllEqual(Assignments.open(self.folder).sub, SUB)

    def test_a_damaged_block_is_reported(self):
        assignments.write(self.folder, Solo(), 0, CLUSTER, SUB, 4, 2)
        (block,) = [n for n in os.listdir(self.folder) if n.startswith("block")]
        path = os.path.join(self.folder, block)
        with open(path, "rb") as file:
            data = file.read()
        for damaged in (data[:-40], data.replace(CLUSTER.tobytes(), SUB.tobytes())):
            with open(path, "wb") as file:
                file.write(damaged)
            with self.assertRaisesRegex(DataError, "no complete assignments"):
                Assignments.open(self.folder)

    def test_statistics_of_both_levels_equal_the_closed_form(self):
        figures = Assignments(CLUSTER, SUB, 4, 2).statistics()
        top = figures["clusters"]
        self.assertEqual((top["rows"], top["largest_share"], top["empty"]), (6, 0.5, 1))
        p = np.array([3, 2, 1]) / 6
        self.assertNear(top["entropy"], -np.sum(p * np.log(p)), 1e-12)
        self.assertNear(top["imbalance_factor"], 4 * np.sum(p**2), 1e-12)
        below = figures["sub_clusters"]
        self.assertEqual((below["rows"], below["largest_share"], below["empty"]), (6, 2 / 6, 3))

    def test_the_flat_label_names_cluster_and_sub_cluster(self):
        self.assertAllEqual(Assignments(CLUSTER, SUB, 4, 2).flat(), [1, 1, 0, 2, 3, 7])

    def test_even_clusters_have_imbalance_one_and_entropy_log_k(self):
        figures = assignments.count_statistics(np.full(8, 5))
        self.assertNear(figures["imbalance_factor"], 1.0, 1e-12)
        self.assertNear(figures["entropy"], np.log(8), 1e-12)
        alone = assignments.count_statistics(np.array([7, 0, 0]))
        self.assertEqual((alone["imbalance_factor"], alone["entropy"]), (3.0, 0.0))

    def test_sizes_are_counted_by_powers_of_two(self):
        sizes = [0, 0, 1, 2, 3, 4, 7, 8, 15, 16, 1023, 1024]
        rng = np.random.default_rng(0)
        expected = [2, 1, 2, 2, 2, 1, 0, 0, 0, 0, 1, 1]
        self.assertEqual(assignments.size_histogram(rng.permutation(sizes)), expected)
        self.assertEqual(assignments.size_histogram([0, 0]), [2])
        figures = Assignments(CLUSTER, SUB, 4, 2).statistics()
        self.assertEqual(figures["clusters"]["sizes"], [1, 1, 2])
        self.assertEqual(figures["sub_clusters"]["sizes"], [3, 4, 1])

    def test_healthy_clusters_are_no_reason_to_warn(self):
        rng = np.random.default_rng(0)
        for m, k in ((4, 100), (1, 50), (8, 1)):
            self.assertEqual(assignments.collapse_warnings(rng.poisson(20, (m, k))), [])
        self.assertEqual(assignments.collapse_warnings(np.array([[70], [30]])), [])
        # An empty cluster has empty sub-clusters by nature.
        self.assertEqual(assignments.collapse_warnings(np.array([[5, 6], [5, 6], [0, 0]])), [])

    def test_a_collapse_is_told_in_plain_words(self):
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
            (warning,) = assignments.collapse_warnings(counts)
            self.assertRegex(warning, message)
        self.assertLen(assignments.collapse_warnings(np.array([[97, 0, 0], [1, 0, 0]])), 3)

    def test_clusters_of_any_rows_that_say_little_are_told_in_plain_words(self):
        self.assertEqual(assignments.size_warnings(np.full(10, 5)), [])
        self.assertEqual(assignments.size_warnings(np.zeros(10)), [])
        (crowded,) = assignments.size_warnings(np.array([1, 1, 97, 1]))
        self.assertIn("cluster 2 holds 97% of all rows", crowded)
        (empty,) = assignments.size_warnings(np.array([5, 5, 5, 0, 0, 0, 0]))
        self.assertIn("4 of 7 clusters are empty", empty)

    def test_nmi_knows_the_same_partition_and_an_independent_one(self):
        self.assertNear(assignments.nmi(CLUSTER, 10 - CLUSTER), 1.0, 1e-9)
        a, b = np.divmod(np.arange(16), 4)
        self.assertNear(assignments.nmi(a, b), 0.0, 1e-9)
