"""Steps with a projection and prototypes: equal on any number of workers, prototypes stay."""

import types

import numpy as np
import pytest
import tensorflow as tf
import workers

from dc_tf.clustering.hierarchy import hierarchical_kmeans
from dc_tf.data.input.batch_plan import BatchPlan
from dc_tf.distributed.cluster import connect
from dc_tf.distributed.collectives import Solo
from dc_tf.distributed.topology import Topology
from dc_tf.experiment import Clustering, Contrast, Model, Optimizer, Projection, Stage, Views
from dc_tf.kmeans_options import KMeansOptions
from dc_tf.nn import losses
from dc_tf.nn.vgg16 import VGG16
from dc_tf.training.step.heads import Heads
from dc_tf.training.step.learner import Learner
from dc_tf.training.step.prototypes import Prototypes
from dc_tf.training.step.step_metrics import IMAGE_NAMES

pytestmark = pytest.mark.numeric

RESOLUTION, FC, HIDDEN, DIM, SUBS, BATCH = 32, 24, 16, 8, 5, 32
STEPS = 2


def stage_of(prototype_rotation="shared", clusters=2, rotations=2, hidden=HIDDEN, **changes):
    return Stage(
        clusters=clusters,
        rotations=rotations,
        sub_clusters=SUBS,
        batch_size=BATCH,
        head="prototypes",
        prototype_rotation=prototype_rotation,
        projection=Projection(hidden=hidden, dim=DIM),
        clustering=Clustering(whiten=False, spherical=True),
        optimizer=Optimizer(learning_rate=0.002, weight_decay=1e-3),
    ).replace(**changes)


class Centroids:
    """A kept clustering with centroids of length 1, in which one sub-cluster has no rows."""

    def __init__(self, clusters, clusterings=1):
        random = np.random.default_rng(5)
        shape = (clusters, clusterings * SUBS, DIM)
        self.centroids = random.standard_normal(shape).astype(np.float32)
        self.centroids /= np.linalg.norm(self.centroids, axis=2, keepdims=True)
        self.counts = np.full(shape[:2], 9)
        self.counts[0, -1] = 0

    def all_sub_centroids(self, cluster):
        return self.centroids[cluster], self.counts[cluster]


def learner_of(cluster, stage, exchange="auto"):
    topology = Topology(cluster.size, stage.super_classes)
    plan = BatchPlan(stage.clusters, stage.rotations, BATCH, topology)
    with cluster.strategy.scope():
        trunk = VGG16(width=1 / 16, resolution=RESOLUTION, fc=FC, seed=3).built_at_resolution()
    learner = Learner(cluster, plan, trunk, stage, Model(dropout=False, exchange=exchange), seed=7)
    learner.start_round(0)
    learner.heads.prototypes.load(Centroids(stage.clusters, stage.clusterings))
    return learner


def batch_of(plan, rank, step, clusterings=1, views=1):
    """This worker's part of the batch of a step, which is sorted by super-class."""
    random = np.random.default_rng((11, step))
    start = plan.topology.position(rank) * plan.per_served
    own = np.concatenate(
        [
            s * plan.per_super_class + start + np.arange(plan.per_served)
            for s in plan.topology.served(rank)
        ]
    )
    shape = (views, RESOLUTION, RESOLUTION, 3)[views == 1 :]
    images = random.random((BATCH, *shape), np.float32)
    supers = np.repeat(np.arange(plan.topology.super_classes), plan.per_super_class)
    shape = BATCH if clusterings == 1 else (BATCH, clusterings)
    subs = random.integers(0, SUBS - 1, shape, np.int32)
    batch = {"image": images, "super_id": supers.astype(np.int32), "sub_id": subs}
    return {name: tf.constant(array[own]) for name, array in batch.items()}


def train(cluster, stage, exchange="auto", steps=STEPS):
    """(weights before, weights after, sums of the last step over all workers) of some steps."""
    learner = learner_of(cluster, stage, exchange)
    weights = [*learner.shared_weights, *learner.heads.super_head.weights]
    begun = [w.numpy() for w in weights]
    for step in range(steps):
        batch = batch_of(learner.plan, cluster.rank, step, stage.clusterings, stage.views.count)
        sums = learner.step(batch, tf.constant(step))
    learner.average_statistics()
    statistics = [w.numpy() for w in learner.projection.non_trainable_variables]
    sums = cluster.world.all_sum(sums).numpy()
    return begun, [w.numpy() for w in weights], statistics, sums


class WorkersTest(tf.test.TestCase):
    def check(self, stage, size):
        """With layers of the projection as factors, which `auto` would not choose so small."""
        ((begun, ended, statistics, sums),) = workers.on_cluster(1, train, stage)
        spread = workers.on_cluster(size, train, stage, "factors")
        for _, others_end, others_statistics, others_sums in spread:
            # All weights together, then each part above the trunk by itself.
            parts = [slice(None), *(slice(-n, None if n == 1 else 1 - n) for n in range(1, 7))]
            for part in parts:
                apart = distance(ended[part], others_end[part])
                self.assertLess(apart / distance(begun[part], ended[part]), 1e-2)
            self.assertAllClose(statistics, others_statistics, rtol=1e-4, atol=1e-6)
            images = len(IMAGE_NAMES)
            self.assertAllClose(sums[:images], others_sums[:images], rtol=1e-3)
            # Squared norms of gradients, of the second step.
            self.assertAllClose(sums[images:], others_sums[images:], rtol=1e-2)

    @pytest.mark.extended
    def test_two_workers_take_the_steps_of_one_with_mapped_prototypes(self):
        self.check(stage_of("mapped", clusterings=2), 2)

    @pytest.mark.slow
    def test_two_workers_take_the_steps_of_one_with_parts(self):
        self.check(stage_of(accumulate=2), 2)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_two_workers_take_the_steps_of_one_with_a_loss_between_views(self):
        contrast, views = Contrast(weight=0.5), Views(global_views=2)
        stage = stage_of(clusters=1, rotations=1, contrast=contrast, views=views)
        ((begun, ended, _, sums),) = workers.on_cluster(1, train, stage, "auto", 1)
        for _, others_end, _, others_sums in workers.on_cluster(2, train, stage, "auto", 1):
            # In the trunk a rounding may decide at a ReLU; above it nothing does so.
            for part, most in ((slice(None), 0.05), (slice(-6, None), 1e-3)):
                apart = distance(ended[part], others_end[part])
                self.assertLess(apart / distance(begun[part], ended[part]), most)
            self.assertAllClose(sums, others_sums, rtol=1e-2)

    @pytest.mark.extended
    def test_two_workers_take_the_steps_of_one(self):
        for stage in (stage_of(), stage_of("mapped", hidden=0)):
            self.check(stage, 2)

    @pytest.mark.extended
    def test_four_workers_take_the_steps_of_one(self):
        # One super-class each, and two workers for each of two.
        for stage in (stage_of("mapped", clusterings=2), stage_of("mapped", clusters=1)):
            self.check(stage, 4)


class PrototypesTest(tf.test.TestCase):
    def features(self):
        x = np.random.default_rng(1).standard_normal((BATCH, DIM)).astype(np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def prototypes(self, stage):
        plan = BatchPlan(stage.clusters, stage.rotations, BATCH, Topology(1, stage.super_classes))
        prototypes = Prototypes(connect(), plan, stage, DIM)
        prototypes.load(Centroids(stage.clusters))
        return prototypes

    def expected(self, x, rotate):
        """The logits of four super-classes, two rotations of two clusters."""
        parts = [
            rotate(part, s % 2) @ Centroids(2).centroids[s // 2].T / 0.2
            for s, part in enumerate(np.split(x, 4))
        ]
        return np.concatenate(parts)

    def test_logits_are_cosines_over_the_temperature(self):
        x = self.features()
        logits = self.prototypes(stage_of(temperature=0.2)).logits(x).numpy()
        expected = self.expected(x, lambda part, _: part)
        self.assertAllClose(logits[16:], expected[16:], atol=1e-5)
        self.assertAllClose(logits[:16, :-1], expected[:16, :-1], atol=1e-5)
        # A sub-cluster without rows is no answer.
        self.assertAllLess(logits[:16, -1], -1e6)

    def test_the_map_of_a_rotation_comes_before_the_cosines(self):
        prototypes = self.prototypes(stage_of("mapped", temperature=0.2))
        x = self.features()
        shared = self.prototypes(stage_of(temperature=0.2)).logits(x)
        self.assertAllClose(prototypes.logits(x), shared, rtol=1e-4)  # the identity at first
        maps = np.random.default_rng(2).standard_normal((2, DIM, DIM)).astype(np.float32)
        prototypes.maps.assign(maps)

        def rotate(part, rotation):
            mapped = part @ maps[rotation]
            return mapped / np.linalg.norm(mapped, axis=1, keepdims=True)

        self.assertAllClose(prototypes.logits(x)[16:], self.expected(x, rotate)[16:], atol=1e-4)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_prototypes_get_no_update_and_no_state_of_the_optimizer(self):
        learner = learner_of(connect(), stage_of())
        x = self.features()
        before = learner.heads.prototypes.logits(x).numpy()
        learner.step(batch_of(learner.plan, 0, 0), tf.constant(0))
        self.assertAllEqual(learner.heads.prototypes.logits(x), before)
        self.assertEmpty(learner.heads.sub_heads)
        kept = [v.shape for o in learner.optimizers() for v in o.variables]
        self.assertNotIn([SUBS, DIM], kept)
        self.assertIn([HIDDEN, DIM], kept)  # of the projection


class ClusteringsTest(tf.test.TestCase):
    def test_the_loss_is_the_mean_of_those_of_each_clustering(self):
        x = np.random.default_rng(1).standard_normal((BATCH, DIM)).astype(np.float32)
        ids = np.random.default_rng(2).integers(0, SUBS - 1, (BATCH, 2), np.int32)
        supers = np.zeros(BATCH, np.int32)
        for head in ("linear", "prototypes"):
            stage = stage_of(clusters=1, rotations=1, clusterings=2, head=head)
            heads = Heads(connect(), BatchPlan(1, 1, BATCH, Topology(1, 1)), stage, DIM)
            heads.reset((0, 0), 0)
            if head == "prototypes":
                heads.prototypes.load(Centroids(1, 2))
                logits = heads.prototypes.logits(x)
            else:
                logits = heads.sub_heads[0].head(x)
            loss, _, sub_logits = heads.objective(x, supers, ids)
            self.assertEqual(sub_logits.shape, (BATCH, 2, SUBS))
            each = [
                losses.cross_entropy(logits[:, c * SUBS : (c + 1) * SUBS], ids[:, c])
                for c in range(2)
            ]
            self.assertAllClose(loss, (each[0] + each[1]) / 2, rtol=1e-5)


class ReassignedTest(tf.test.TestCase):
    def sub_loss(self, stage, x, found, model=None):
        """Mean loss of the sub-classes just after a reassignment."""
        plan = BatchPlan(1, 1, len(x), Topology(1, 1))
        heads = Heads(connect(), plan, stage, DIM)
        heads.reset((0, 0), 0)
        if model:
            heads.prototypes.load(model)
        return float(tf.reduce_mean(heads.objective(x, found.cluster, found.sub).loss))

    def test_prototypes_fit_new_clusters_at_once_and_linear_heads_do_not(self):
        random = np.random.default_rng(0)
        centres = np.eye(DIM)[:SUBS]
        x = np.repeat(centres, 40, axis=0) + 0.05 * random.standard_normal((40 * SUBS, DIM))
        x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        kept = []
        found = hierarchical_kmeans(
            x,
            1,
            SUBS,
            Solo(),
            options=KMeansOptions(init="k-means++", spherical=True),
            on_centroids=lambda level, index, centroids: kept.append(centroids),
        )
        model = types.SimpleNamespace(all_sub_centroids=lambda _: (kept[0], found.counts[0]))
        stage = stage_of(clusters=1, rotations=1, temperature=0.1)
        self.assertLess(self.sub_loss(stage, x, found, model), 0.05)
        linear = stage.replace(head="linear")
        self.assertAllClose(self.sub_loss(linear, x, found), np.log(SUBS), rtol=0.3)


def distance(one, other):
    return np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(one, other, strict=True)))


if __name__ == "__main__":
    tf.test.main()
