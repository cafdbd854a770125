"""The sampler: uniform over clusters, the same on every worker, the paper's arithmetic."""

import numpy as np
import tensorflow as tf

from dc_tf.data.input.batch_plan import BatchPlan
from dc_tf.data.input.sampler import Sampler, draw_uniformly, draws_per_cluster
from dc_tf.distributed.topology import Topology
from dc_tf.errors import DataError

ROWS = 960


def clustered(workers, clusters=2, rotations=4, batch=32, seed=0, stage=0):
    """A sampler over two uneven clusters with three uneven sub-clusters each."""
    random = np.random.default_rng(5)
    cluster = random.choice(clusters, ROWS, p=[0.8, 0.2] if clusters == 2 else None)
    sub = random.choice(3, ROWS, p=[0.9, 0.09, 0.01]).astype(np.int32)
    topology = Topology(workers, clusters * rotations)
    plan = BatchPlan(clusters, rotations, batch, topology)
    return Sampler(ROWS, plan, cluster.astype(np.int32), sub, seed, stage), plan, cluster, sub


class SamplerTest(tf.test.TestCase):
    def test_the_global_batch_of_a_step_does_not_depend_on_the_number_of_workers(self):
        def batches(workers):
            sampler, plan, *_ = clustered(workers)
            epochs = [sampler.epoch(3, rank) for rank in range(workers)]
            for step in range(sampler.steps):
                part = slice(step * plan.per_worker, (step + 1) * plan.per_worker)
                columns = [np.column_stack([c[part] for c in epoch]) for epoch in epochs]
                yield sorted(map(tuple, np.concatenate(columns).tolist()))

        alone = list(batches(1))
        for workers in (2, 4, 8, 16):
            self.assertEqual(list(batches(workers)), alone)

    def test_every_super_class_has_the_same_weight_in_every_batch(self):
        sampler, plan, cluster, sub = clustered(1)
        draws = sampler.epoch(0, 0)
        supers = draws.super_id.reshape(sampler.steps, plan.batch_size)
        for batch in supers:
            self.assertAllEqual(np.bincount(batch, minlength=8), [4] * 8)
        self.assertAllEqual(draws.super_id // 4, cluster[draws.row])
        self.assertAllEqual(draws.super_id % 4, draws.rotation)
        self.assertAllEqual(draws.sub_id, sub[draws.row])

    def test_the_first_of_several_clusterings_determines_the_draws(self):
        sampler, plan, cluster, sub = clustered(2)
        other = np.random.default_rng(6).integers(0, 3, ROWS, np.int32)
        several = Sampler(ROWS, plan, cluster.astype(np.int32), np.stack([sub, other], 1))
        one, both = sampler.epoch(1, 1), several.epoch(1, 1)
        for name in ("row", "rotation", "super_id", "seed"):
            self.assertAllEqual(getattr(one, name), getattr(both, name))
        self.assertAllEqual(both.sub_id, np.stack([sub, other], 1)[both.row])
        self.assertEqual(both.sub_id.dtype, np.int32)

    def test_over_images_an_epoch_has_each_once_where_all_are_in_one_cluster(self):
        sub = np.random.default_rng(5).choice(3, ROWS, p=[0.9, 0.09, 0.01]).astype(np.int32)
        sampler = Sampler(ROWS, BatchPlan(1, 1, 32, Topology(1, 1)), sub=sub, of_images=True)
        first, second = sampler.epoch(0, 0), sampler.epoch(1, 0)
        self.assertAllEqual(np.sort(first.row), np.arange(ROWS))
        self.assertAllEqual(first.sub_id, sub[first.row])
        self.assertNotAllEqual(first.row, second.row)

    def test_a_worker_gets_its_own_super_classes_in_order(self):
        sampler, plan, *_ = clustered(4)
        supers = sampler.epoch(0, 2).super_id.reshape(sampler.steps, plan.per_worker)
        self.assertAllEqual(supers, np.tile(np.repeat([4, 5], 4), (sampler.steps, 1)))

    def test_epochs_stages_and_seeds_differ(self):
        def rows(epoch=0, **kwargs):
            return clustered(1, **kwargs)[0].epoch(epoch, 0).row.tolist()

        self.assertEqual(rows(), rows())
        for other in (rows(epoch=1), rows(seed=1), rows(stage=1)):
            self.assertNotEqual(rows(), other)

    def test_an_image_that_comes_again_in_an_epoch_is_cropped_differently(self):
        draws = clustered(1)[0].epoch(0, 0)
        pairs = {
            (row, *seed) for row, seed in zip(draws.row.tolist(), draws.seed.tolist(), strict=True)
        }
        self.assertLess(len(set(draws.row.tolist())), len(draws.row))
        self.assertGreater(len(pairs), 0.99 * len(draws.row))

    def test_rotations_together_show_the_same_crops_four_ways(self):
        plan = BatchPlan(1, 4, 32, Topology(4, 4), together=True)
        sampler = Sampler(ROWS, plan)
        workers = [sampler.epoch(0, rank) for rank in range(4)]
        for rank, draws in enumerate(workers):
            self.assertAllEqual(draws.row, workers[0].row)
            self.assertAllEqual(draws.seed, workers[0].seed)
            self.assertAllEqual(draws.rotation, [rank] * len(draws.row))

    def test_two_rotations_are_upright_and_upside_down(self):
        sampler, *_ = clustered(1, rotations=2)
        self.assertAllEqual(np.unique(sampler.epoch(0, 0).rotation), [0, 2])

    def test_a_cluster_without_images_is_an_error_that_says_so(self):
        plan = BatchPlan(3, 1, 3, Topology(1, 3))
        sampler = Sampler(ROWS, plan, cluster=np.zeros(ROWS, np.int32))
        with self.assertRaisesRegex(DataError, "cluster 1 has no images"):
            sampler.epoch(0, 0)

    def test_at_paper_scale_an_epoch_has_31216_steps_of_192_images_a_super_class(self):
        plan = BatchPlan(4, 4, 3072, Topology(64, 16))
        self.assertEqual(plan.steps(95_896_000), 31_216)
        self.assertEqual((plan.per_super_class, plan.per_served, plan.per_worker), (192, 48, 48))
        for workers, worker_draws in ((64, 48), (16, 192), (4, 4 * 192), (1, 16 * 192)):
            plan = BatchPlan(4, 4, 3072, Topology(workers, 16))
            self.assertEqual((plan.steps(95_896_000), plan.per_worker), (31_216, worker_draws))

    def test_at_paper_scale_each_of_80000_sub_clusters_is_drawn_75_times(self):
        plan = BatchPlan(4, 4, 3072, Topology(64, 16))
        size = plan.steps(95_896_000) * plan.per_super_class
        self.assertEqual(size, 5_993_472)
        self.assertEqual(draws_per_cluster(size, 80_000), 75)


def reference_draws(sub, size, random):
    """The draws as a loop over clusters."""
    shuffled = random.permutation(len(sub))
    groups = [[row for row in shuffled if sub[row] == c] for c in np.unique(sub)]
    draws = -(-size // len(groups))
    again = np.array([len(group) for group in groups if len(group) < draws])
    repeats = iter(random.integers(0, again[:, None], (len(again), draws)))
    picks = [
        row
        for group in groups
        for row in (group[:draws] if len(group) >= draws else [group[i] for i in next(repeats)])
    ]
    random.shuffle(picks)
    return picks[:size]


class DrawTest(tf.test.TestCase):
    def test_draws_are_those_of_a_loop_over_clusters(self):
        for clusters, size in ((1, 40), (1, 90), (6, 40), (6, 200), (30, 70)):
            sub = np.random.default_rng(clusters).integers(0, clusters, 60) ** 2
            draws = draw_uniformly(sub.astype(np.int32), size, np.random.default_rng(7))
            self.assertAllEqual(draws, reference_draws(sub, size, np.random.default_rng(7)))

    def test_draws_are_uniform_over_clusters_whatever_their_size(self):
        sub = np.repeat([0, 2, 5], [9000, 900, 100])
        picks = draw_uniformly(sub, 3000, np.random.default_rng(0))
        counts = np.bincount(sub[picks], minlength=6)
        self.assertAllEqual(counts[[1, 3, 4]], [0, 0, 0])
        self.assertAllClose(counts[[0, 2, 5]], [1000] * 3, atol=2)

    def test_large_clusters_do_not_repeat_and_small_ones_do(self):
        sub = np.repeat([0, 1], [5000, 10])
        picks = draw_uniformly(sub, 2000, np.random.default_rng(0))
        large = picks[sub[picks] == 0]
        self.assertLen(set(large.tolist()), len(large))
        self.assertLen(set(picks[sub[picks] == 1].tolist()), 10)

    def test_a_full_epoch_of_one_cluster_is_a_permutation(self):
        picks = draw_uniformly(np.zeros(100, np.int32), 100, np.random.default_rng(0))
        self.assertAllEqual(np.sort(picks), np.arange(100))

    def test_more_draws_than_images_see_all_images(self):
        picks = draw_uniformly(np.zeros(20, np.int32), 500, np.random.default_rng(0))
        self.assertLen(picks, 500)
        self.assertLen(set(picks.tolist()), 20)


if __name__ == "__main__":
    tf.test.main()
