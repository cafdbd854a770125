"""The loss that contrasts views: against a plain loop, and the same on any number of workers."""

import numpy as np
import pytest
import tensorflow as tf
import workers
from absl.testing import parameterized

from dc_tf.data.input.batch_plan import BatchPlan
from dc_tf.distributed.cluster import connect
from dc_tf.distributed.topology import Topology
from dc_tf.experiment import Contrast, Projection, Stage, Views
from dc_tf.training.step.contrast import BatchContrast

pytestmark = pytest.mark.numeric

BATCH, DIM, TEMPERATURE = 16, 8, 0.3


def stage_of(clusters=1, rotations=1, global_views=2, local_views=0):
    return Stage(
        clusters=clusters,
        rotations=rotations,
        batch_size=BATCH,
        projection=Projection(dim=DIM),
        contrast=Contrast(weight=0.5, temperature=TEMPERATURE),
        views=Views(global_views=global_views, local_views=local_views),
    )


def vectors_of(stage):
    """(BATCH, views, DIM) of length 1, of the global batch."""
    shape = BATCH, stage.views.count, DIM
    vectors = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=2, keepdims=True)


def own_images(plan, rank):
    """Places in the global batch, which is sorted by super-class, of the images of a worker."""
    start = plan.topology.position(rank) * plan.per_served
    firsts = [s * plan.per_super_class + start for s in plan.topology.served(rank)]
    return np.concatenate([first + np.arange(plan.per_served) for first in firsts])


def losses_and_gradient(cluster, stage):
    """Of the images of one worker: places, (b, views) losses, gradient of the sum over all."""
    plan = BatchPlan(
        stage.clusters, stage.rotations, BATCH, Topology(cluster.size, stage.super_classes)
    )
    contrast = BatchContrast(cluster, plan, stage)

    @tf.function(autograph=False)
    def computed(vectors):
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            losses = contrast(tf.reshape(vectors, [-1, DIM]))
            # Not a plain sum: each view has a weight of its own, so that the places count.
            total = tf.reduce_sum(losses * tf.reshape(weights, [-1]))
        return losses, tape.gradient(total, vectors)

    places = own_images(plan, cluster.rank)
    weights = weights_of(stage)[places]
    losses, gradient = computed(tf.constant(vectors_of(stage)[places]))
    return places, losses.numpy().reshape(len(places), -1), gradient.numpy()


def weights_of(stage):
    shape = BATCH, stage.views.count
    return np.random.default_rng(4).uniform(0.5, 2, shape).astype(np.float32)


def by_a_loop(stage):
    """(BATCH, views) losses, view by view, in float64."""
    vectors, each = vectors_of(stage).astype(np.float64), BATCH // stage.super_classes
    count, found = stage.views.global_views, np.zeros((BATCH, stage.views.count))
    for image in range(BATCH):
        first = image // each * each
        for view in range(count):
            cosines = {
                (other, v): vectors[image, view] @ vectors[other, v] / TEMPERATURE
                for other in range(first, first + each)
                for v in range(count)
                if (other, v) != (image, view)
            }
            total = np.log(sum(np.exp(c) for c in cosines.values()))
            own = [total - cosines[image, v] for v in range(count) if v != view]
            found[image, view] = np.mean(own) * stage.views.count / count
    return found


class ContrastTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(
        stage_of(),
        stage_of(global_views=3),
        stage_of(clusters=2, rotations=2),
        stage_of(clusters=2, local_views=2),
    )
    def test_a_view_finds_the_others_of_its_image_among_its_super_class(self, stage):
        _, losses, _ = losses_and_gradient(connect(), stage)
        self.assertAllClose(losses, by_a_loop(stage), rtol=1e-4)

    def test_the_mean_over_all_views_is_that_over_global_ones(self):
        _, with_local, _ = losses_and_gradient(connect(), stage_of(local_views=2))
        self.assertAllEqual(with_local[:, 2:], np.zeros((BATCH, 2)))
        self.assertAllClose(np.mean(with_local), np.mean(with_local[:, :2]) / 2)

    def test_equal_views_have_no_loss_and_equal_images_that_of_chance(self):
        stage = stage_of()
        plan = BatchPlan(1, 1, BATCH, Topology(1, 1))
        contrast = BatchContrast(
            connect(), plan, stage.replace(contrast=Contrast(weight=0.5, temperature=0.01))
        )
        apart = np.repeat(np.eye(BATCH, dtype=np.float32), 2, axis=0)
        self.assertAllClose(contrast(tf.constant(apart)), np.zeros(2 * BATCH), atol=1e-5)
        alike = np.repeat(np.eye(1, DIM, dtype=np.float32), 2 * BATCH, axis=0)
        chance = np.full(2 * BATCH, np.log(2 * BATCH - 1))
        self.assertAllClose(contrast(tf.constant(alike)), chance, rtol=1e-4)

    def check_workers(self, stage, size):
        _, losses, gradient = losses_and_gradient(connect(), stage)
        done = np.zeros(BATCH, bool)
        for places, own, own_gradient in workers.on_cluster(size, losses_and_gradient, stage):
            self.assertAllClose(own, losses[places], rtol=1e-5)
            self.assertAllClose(own_gradient, gradient[places], rtol=1e-4, atol=1e-6)
            done[places] = True
        self.assertTrue(done.all())

    def test_two_workers_have_the_losses_and_gradients_of_one(self):
        for stage in (stage_of(), stage_of(clusters=2, rotations=2, local_views=1)):
            self.check_workers(stage, 2)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_four_workers_have_the_losses_and_gradients_of_one(self):
        # Four share a super-class; two share each of two; each serves two.
        for stage in (stage_of(global_views=3), stage_of(clusters=2), stage_of(8)):
            self.check_workers(stage, 4)


if __name__ == "__main__":
    tf.test.main()
