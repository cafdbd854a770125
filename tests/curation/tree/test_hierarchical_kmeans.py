"""Trees of clusters: more even than plain k-means, resumed exactly, the same on many workers."""

import os
import tempfile

import numpy as np
import pytest
import tensorflow as tf
import workers

from dc_tf.clustering.kmeans import kmeans
from dc_tf.clustering.store.points import as_points
from dc_tf.curation.tree.choose_rows import random_keys, smallest_in_clusters
from dc_tf.curation.tree.hierarchical_kmeans import hierarchical_kmeans
from dc_tf.curation.tree.options import HierarchyOptions, default_clusters
from dc_tf.curation.tree.store import TreeStore
from dc_tf.curation.tree.water_filling import even_shares
from dc_tf.distributed import stop_request
from dc_tf.distributed.blocks import row_block
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import ConfigError, Preempted


def long_tail(rows=4000, concepts=20, dim=8, seed=0):
    """(rows, dim) float32 rows of blobs, each half as frequent as the one before."""
    rng = np.random.default_rng(seed)
    shares = np.maximum(2.0 ** -np.arange(concepts), 10 / rows)
    labels = rng.choice(concepts, rows, p=shares / shares.sum())
    centers = rng.normal(0, 4, (concepts, dim))
    return (centers[labels] + rng.normal(0, 1, (rows, dim))).astype(np.float32), labels


def entropy(labels):
    shares = np.bincount(labels) / len(labels)
    return -np.sum(shares[shares > 0] * np.log(shares[shares > 0]))


OPTIONS = HierarchyOptions(clusters=(100, 20), rounds=4, iterations=6, precision="float32")


class BalanceTest(tf.test.TestCase):
    @pytest.mark.slow
    def test_a_subset_is_nearer_uniform_than_by_flat_clusters_and_at_random(self):
        x, concepts = long_tail()
        rng = np.random.default_rng(0)
        tree = hierarchical_kmeans(x, OPTIONS)
        ours = self.chosen(tree.labels, tree.shares(400, tree.sizes(), rng))
        labels = kmeans(x, 100, init="k-means++").assignments
        flat = self.chosen(labels, even_shares(np.bincount(labels, minlength=100), 400, rng))
        by_chance = rng.choice(len(x), 400, replace=False)
        found = [entropy(concepts[rows]) for rows in (by_chance, flat, ours)]
        self.assertLess(found[0], entropy(concepts) + 0.1)
        self.assertGreater(found[1], found[0] + 0.2)
        self.assertGreater(found[2], found[1] + 0.2)
        possible = even_shares(np.bincount(concepts), 400, rng)
        self.assertGreater(found[2], 0.95 * entropy(np.repeat(np.arange(20), possible)))

    def chosen(self, labels, quotas):
        return smallest_in_clusters(labels, random_keys(np.arange(len(labels)), 0), quotas)


class TreeTest(tf.test.TestCase):
    @pytest.mark.merge
    @pytest.mark.slow
    def test_every_row_has_its_nearest_centroid_and_every_cluster_a_parent(self):
        x, _ = long_tail(900)
        tree = hierarchical_kmeans(x, OPTIONS)
        means = np.stack([x[tree.labels == c].mean(0) for c in np.unique(tree.labels)])
        self.assertEqual(tree.clusters, 100)
        self.assertAllInRange(tree.parents[0][np.unique(tree.labels)], 0, 19)
        # A row is not far from the mean of its cluster, compared with other clusters' means.
        own = np.linalg.norm(x - means[np.unique(tree.labels, return_inverse=True)[1]], axis=1)
        self.assertLess(own.mean(), np.linalg.norm(x - x.mean(0), axis=1).mean() / 2)
        self.assertAllClose(own.mean(), tree.distances.mean(), rtol=0.2)

    def test_rows_that_are_all_equal_leave_clusters_without_parents(self):
        tree = hierarchical_kmeans(np.ones((60, 3), np.float32), OPTIONS_OF_FEW)
        self.assertLen(np.unique(tree.labels), 1)
        self.assertEqual((tree.parents[0] >= 0).sum(), 1)
        shares = tree.shares(10, tree.sizes(), np.random.default_rng(0))
        self.assertEqual(shares.sum(), 10)

    @pytest.mark.slow
    def test_two_workers_find_the_tree_of_one(self):
        alone = hierarchical_kmeans(long_tail(600)[0], OPTIONS_OF_FEW)
        found = workers.on_workers(2, _grow_own)
        self.assertAllEqual(np.concatenate([labels for labels, _ in found]), alone.labels)
        for _, parents in found:
            self.assertAllEqual(parents, alone.parents[0])

    def test_what_cannot_be_is_refused(self):
        with self.assertRaisesRegex(ConfigError, "100 clusters need as many rows.* 99"):
            hierarchical_kmeans(np.zeros((99, 2), np.float32), OPTIONS)
        for clusters in ((10, 10), (5, 10), ()):
            with self.assertRaisesRegex(ConfigError, "descending numbers"):
                HierarchyOptions(clusters=clusters)

    def test_default_levels_follow_the_rows(self):
        self.assertEqual(default_clusters(5), (1,))
        self.assertEqual(default_clusters(4000), (40,))
        self.assertEqual(default_clusters(10**6), (10_000, 1000, 100, 10))
        self.assertEqual(default_clusters(10**8), (10**6, 10**5, 10**4, 1000))


OPTIONS_OF_FEW = HierarchyOptions(clusters=(12, 3), rounds=2, iterations=3, precision="float32")


class ResumeTest(tf.test.TestCase):
    def test_one_that_was_stopped_anywhere_ends_like_one_that_was_not(self):
        x = long_tail(600)[0]
        whole = hierarchical_kmeans(x, OPTIONS_OF_FEW)
        path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "tree")
        self.addCleanup(stop_request.reset)
        stops, tree = 0, None
        while tree is None and stops < 100:
            store = _StoppingStore(path, after=2)
            try:
                tree = hierarchical_kmeans(x, OPTIONS_OF_FEW, Solo(), store)
            except Preempted:
                stop_request.reset()
                stops += 1
        self.assertGreater(stops, 4)
        self.assertAllEqual(tree.labels, whole.labels)
        self.assertAllEqual(tree.parents[0], whole.parents[0])

    def test_a_written_tree_is_read_again(self):
        tree = hierarchical_kmeans(long_tail(600)[0], OPTIONS_OF_FEW)
        store = TreeStore(os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "tree"))
        store.claim({"k": 12})
        self.assertFalse(store.is_finished())
        for rank in range(3):
            own = row_block(600, rank, 3)
            part = slice(own.start, own.stop)
            store.write_part(
                type(tree)(tree.labels[part], tree.parents, tree.distances[part]), _Rank(rank, 3)
            )
        store.join_parts(tree, 3)
        found = store.read()
        for name in ("labels", "distances"):
            self.assertAllEqual(getattr(found, name), getattr(tree, name))
        self.assertAllEqual(found.parents[0], tree.parents[0])
        self.assertNotIn("unfinished", os.listdir(store.path))
        with self.assertRaisesRegex(ConfigError, "holds other clusters"):
            store.claim({"k": 13})


class _Rank:
    def __init__(self, rank, size):
        self.rank, self.size = rank, size


class _StoppingStore(TreeStore):
    """Asks the process to stop after so many iterations of k-means."""

    def __init__(self, path, after):
        super().__init__(path, save_every_s=0)
        self._left = after

    def begin(self, level, number, shape, comm):
        state, save = super().begin(level, number, shape, comm)

        def count_and_save(state):
            self._left -= 1
            if not self._left:
                stop_request.request()
            save(state)

        return state, count_and_save


def _grow_own(comm):
    x = long_tail(600)[0]
    own = row_block(len(x), comm.rank, comm.size)
    tree = hierarchical_kmeans(as_points(x[own.start : own.stop]), OPTIONS_OF_FEW, comm)
    return tree.labels, tree.parents[0]


if __name__ == "__main__":
    tf.test.main()
