"""The rows with the smallest keys of each cluster, against sorting, on one and several workers."""

import numpy as np
import tensorflow as tf
import workers

from dc_tf.clustering.store.points import as_points
from dc_tf.curation.tree.choose_rows import (
    as_keys,
    distances_to,
    random_keys,
    smallest_in_clusters,
)
from dc_tf.distributed.blocks import row_block


def sorted_choice(labels, keys, quotas):
    """The positions that a sort of each cluster gives."""
    chosen = []
    for cluster, quota in enumerate(quotas):
        members = np.flatnonzero(labels == cluster)
        order = np.argsort(keys[members], kind="stable")
        chosen.extend(members[order[:quota]])
    return np.sort(chosen)


def problem(seed, rows=300, clusters=7, keys=20):
    """Labels, keys with many ties, and quotas."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, clusters - 1, rows).astype(np.int32)  # the last one is empty
    values = rng.integers(0, keys, rows).astype(np.uint32)
    values[:3] = [0, 2**32 - 1, 2**32 - 1]
    counts = np.bincount(labels[labels >= 0], minlength=clusters)
    return labels, values, rng.integers(0, counts + 1)


class SmallestInClustersTest(tf.test.TestCase):
    def test_one_worker_finds_what_sorting_finds(self):
        for seed in range(20):
            given = problem(seed)
            self.assertAllEqual(smallest_in_clusters(*given), sorted_choice(*given))

    def test_all_and_none_can_be_chosen(self):
        labels, keys, _ = problem(0)
        counts = np.bincount(labels[labels >= 0], minlength=7)
        everything = smallest_in_clusters(labels, keys, counts)
        self.assertAllEqual(everything, np.flatnonzero(labels >= 0))
        self.assertEmpty(smallest_in_clusters(labels, keys, 0 * counts))

    def test_three_workers_find_the_rows_of_one(self):
        found = workers.on_workers(3, _choose_own)
        labels, keys, quotas = problem(1)
        self.assertAllEqual(np.concatenate(found), sorted_choice(labels, keys, quotas))


class KeysTest(tf.test.TestCase):
    def test_keys_of_distances_have_their_order(self):
        distances = np.array([0.0, 1e-30, 0.5, 0.50001, 3.0, 1e30], np.float32)
        self.assertAllEqual(np.argsort(as_keys(distances)), np.arange(6))

    def test_random_keys_depend_on_row_and_seed_only_and_are_spread(self):
        keys = random_keys(np.arange(4096), seed=3)
        self.assertAllEqual(random_keys(np.arange(100, 200), seed=3), keys[100:200])
        self.assertNotAllEqual(random_keys(np.arange(4096), seed=4), keys)
        self.assertAllInRange(np.bincount(keys >> 28, minlength=16), 200, 320)

    def test_distances_are_those_to_the_own_centroid(self):
        rng = np.random.default_rng(0)
        rows, centroids = rng.normal(size=(50, 6)), rng.normal(size=(4, 6)).astype(np.float32)
        labels = rng.integers(0, 4, 50).astype(np.int32)
        labels[7] = -1
        found = distances_to(as_points(rows.astype(np.float32)), labels, centroids)
        expected = np.linalg.norm(rows - centroids[labels], axis=1)
        expected[7] = 0
        self.assertAllClose(found, expected, rtol=1e-5)


def _choose_own(comm):
    labels, keys, quotas = problem(1)
    own = row_block(len(labels), comm.rank, comm.size)
    part = slice(own.start, own.stop)
    return own.start + smallest_in_clusters(labels[part], keys[part], quotas, comm)


if __name__ == "__main__":
    tf.test.main()
