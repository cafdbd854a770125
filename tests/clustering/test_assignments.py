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

    def test_a_corrupt_block_is_reported(self):
        assignments.write(self.folder, Solo(), 0, CLUSTER, SUB, 4, 2)
        (block,) = [n for n in os.listdir(self.folder) if n.startswith("block")]
        path = os.path.join(self.folder, block)
        with open(path, "rb") as file:
            data = file.read()
        for corrupt in (data[:-40], data.replace(CLUSTER.tobytes(), SUB.tobytes())):
            with open(path, "wb") as file:
                file.write(corrupt)
            with self.assertRaisesRegex(DataError, "no complete assignments"):
                Assignments.open(self.folder)

    def test_statistics_of_both_levels_equal_the_closed_form(self):
        values = Assignments(CLUSTER, SUB, 4, 2).statistics()
        top = values["clusters"]
        self.assertEqual((top["rows"], top["largest_share"], top["empty"]), (6, 0.5, 1))
        p = np.array([3, 2, 1]) / 6
        self.assertNear(top["entropy"], -np.sum(p * np.log(p)), 1e-12)
        self.assertNear(top["imbalance_factor"], 4 * np.sum(p**2), 1e-12)
        below = values["sub_clusters"]
        self.assertEqual((below["rows"], below["largest_share"], below["empty"]), (6, 2 / 6, 3))

    def test_the_flat_label_names_cluster_and_sub_cluster(self):
        self.assertAllEqual(Assignments(CLUSTER, SUB, 4, 2).flat(), [1, 1, 0, 2, 3, 7])


if __name__ == "__main__":
    tf.test.main()
