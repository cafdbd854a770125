"""K-means in progress in a shared folder resumes exactly, also on another number of workers."""

import os
import tempfile

import numpy as np
import tensorflow as tf
import workers

from dc_tf.clustering.kmeans import KMeansState
from dc_tf.clustering.shared_state import SharedState
from dc_tf.distributed.collectives import Solo


def state(iteration, labels):
    centroids = np.arange(6, dtype=np.float32).reshape(3, 2) + iteration
    used = np.array([True, iteration % 2 == 0, True])
    objective = tuple(1 / 3 + i for i in range(iteration))
    return KMeansState(iteration, centroids, used, objective, 2, 99, labels)


def save(comm, folder, *iterations):
    shared = SharedState(folder, comm, every_s=0)
    for iteration in iterations:
        shared.save_if_due(state(iteration, np.full(4, 10 * iteration + comm.rank, np.int32)))


def newest(comm, folder):
    return SharedState(folder, comm).newest(3, 2)


def lose_newest_of_second(comm, folder):
    save(comm, folder, 4, 5)
    if comm.rank == 1:
        os.remove(os.path.join(folder, "worker-00001-of-00002", "0000000005.npz"))
    comm.barrier()
    return newest(comm, folder)


class SharedStateTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "state")

    def check(self, found, iteration, labels=None):
        expected = state(iteration, labels)
        for name in ("iteration", "objective", "reseeded", "exchanged_bytes"):
            self.assertEqual(getattr(found, name), getattr(expected, name))
        self.assertAllEqual(found.centroids, expected.centroids)
        self.assertAllEqual(found.used, expected.used)
        self.assertEqual((found.centroids.dtype, found.used.dtype), (np.float32, bool))
        if labels is None:
            self.assertIsNone(found.labels)
        else:
            self.assertAllEqual(found.labels, labels)

    def test_there_is_nothing_at_the_beginning(self):
        self.assertIsNone(newest(Solo(), self.folder))
        self.assertEqual(workers.on_workers(2, newest, self.folder), [None, None])

    def test_one_worker_resumes_where_it_was(self):
        save(Solo(), self.folder, 1, 2, 3)
        self.check(newest(Solo(), self.folder), 3, [30] * 4)

    def test_each_of_two_workers_gets_its_labels(self):
        workers.on_workers(2, save, self.folder, 1, 2)
        for rank, found in enumerate(workers.on_workers(2, newest, self.folder)):
            self.check(found, 2, [20 + rank] * 4)

    def test_what_not_all_workers_saved_is_done_again(self):
        for rank, found in enumerate(workers.on_workers(2, lose_newest_of_second, self.folder)):
            self.check(found, 4, [40 + rank] * 4)

    def test_another_number_of_workers_resumes_from_the_centroids(self):
        workers.on_workers(2, save, self.folder, 2)
        self.check(newest(Solo(), self.folder), 2)
        save(Solo(), self.folder, 6)
        for found in workers.on_workers(2, newest, self.folder):
            self.check(found, 6)


if __name__ == "__main__":
    tf.test.main()
