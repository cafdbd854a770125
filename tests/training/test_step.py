"""One step on several workers is the step of one worker, whoever serves which super-class."""

import dataclasses

import numpy as np
import tensorflow as tf
import workers

from dc_tf.data.sampler import BatchPlan
from dc_tf.distributed.topology import Topology
from dc_tf.experiment import Optimizer, Stage
from dc_tf.nn.vgg16 import VGG16
from dc_tf.training.step import SUMS, Learner

RESOLUTION, FC, SUBS, BATCH = 32, 24, 5, 32
RATE, DECAY = 0.002, 1e-3


@dataclasses.dataclass(frozen=True)
class Case:
    """A small stage and how many steps to take."""

    clusters: int
    rotations: int = 4
    steps: int = 1
    dropout: bool = False
    noise: float = 0.0  # relative, on the images

    @property
    def stage(self):
        return Stage(
            clusters=self.clusters,
            rotations=self.rotations,
            sub_clusters=SUBS,
            batch_size=BATCH,
            optimizer=Optimizer(learning_rate=RATE, momentum=0.9, weight_decay=DECAY),
        )


def train(cluster, case):
    """Takes steps on this worker's part of seeded batches.

    Returns:
        {step count: all weights that this worker holds}, for none, one and all steps, and "sums".
    """
    topology = Topology(cluster.size, case.stage.super_classes)
    plan = BatchPlan(case.clusters, case.rotations, BATCH, topology)
    world = cluster.world
    with cluster.strategy.scope():
        trunk = new_trunk(all_sum=world.all_sum if world.size > 1 else None)
    learner = Learner(cluster, plan, trunk, case.stage, seed=7, dropout=case.dropout)
    learner.start_round(0)
    found = {0: _weights(learner), "sums": []}
    for step in range(case.steps):
        batch = {k: v[_mine(plan, cluster.rank)] for k, v in global_batch(plan, step).items()}
        batch["image"] *= np.float32(1 + case.noise)
        sums = learner.step({k: tf.constant(v) for k, v in batch.items()}, tf.constant(step))
        found["sums"].append(world.all_sum(sums).numpy())
        if step + 1 in (1, case.steps):
            found[step + 1] = _weights(learner)
    return found


def new_trunk(all_sum=None):
    trunk = VGG16(width=1 / 16, resolution=RESOLUTION, fc=FC, all_sum=all_sum, seed=3)
    return trunk.built_at_resolution()


def _weights(learner):
    return {
        "trunk": [v.numpy() for v in learner.trunk.variables],
        "super": [v.numpy() for v in learner.super_head.weights],
        "sub": {s: [v.numpy() for v in h.weights] for s, h in learner.sub_heads.items()},
    }


def global_batch(plan, step):
    """The whole batch of one step, sorted by super-class."""
    random = np.random.default_rng((11, step))
    supers = plan.topology.super_classes
    return {
        "image": random.random((BATCH, RESOLUTION, RESOLUTION, 3), np.float32),
        "super_id": np.repeat(np.arange(supers, dtype=np.int32), plan.per_super_class),
        "sub_id": random.integers(0, SUBS, BATCH, np.int32),
    }


def _mine(plan, rank):
    """Places in the global batch of what worker `rank` sees."""
    start = plan.topology.position(rank) * plan.per_served
    return np.concatenate(
        [
            s * plan.per_super_class + start + np.arange(plan.per_served)
            for s in plan.topology.served(rank)
        ]
    )


class StepTest(tf.test.TestCase):
    def assert_same(self, spread, alone, step, share):
        """All weights of all workers, as near as `share` of the way that they went."""
        names = lambda weights: [*weights["trunk"], *weights["super"]]  # noqa: E731
        start, end = alone[0], alone[step]
        for one in spread:
            apart = _distance(names(one[step]), names(end))
            self.assertLess(apart / _distance(names(start), names(end)), share)
            for s, head in one[step]["sub"].items():
                apart = _distance(head, end["sub"][s])
                self.assertLess(apart / _distance(start["sub"][s], end["sub"][s]), share)

    def check(self, case):
        """ReLU and max-pooling amplify rounding from step to step, even on one worker.

        A wrong scale, a missed gradient or a missed statistic would make the distance a multiple
        of these bounds; a rounding-sized change of the images on one worker stays below as well.
        """
        (alone,) = workers.on_cluster(1, train, case)
        spread = {1: workers.on_cluster(1, train, dataclasses.replace(case, noise=1e-6))}
        for size in (2, 4):
            spread[size] = workers.on_cluster(size, train, case)
        for results in spread.values():
            self.assert_same(results, alone, step=1, share=1e-3)
            self.assert_same(results, alone, step=case.steps, share=2e-2)
            served = {s for one in results for s in one[0]["sub"]}
            self.assertCountEqual(served, range(case.stage.super_classes))
            for one in results:
                self.assertAllClose(one["sums"][0], alone["sums"][0], rtol=1e-4)

    def test_one_and_ten_steps_with_4_super_classes_are_the_same_on_1_2_and_4_workers(self):
        self.check(Case(clusters=1, steps=10))

    def test_one_and_ten_steps_with_8_super_classes_are_the_same_on_1_2_and_4_workers(self):
        self.check(Case(clusters=2, steps=10))

    def test_dropout_does_not_depend_on_the_number_of_workers(self):
        case = Case(clusters=1, dropout=True)
        (alone,) = workers.on_cluster(1, train, case)
        self.assert_same(workers.on_cluster(2, train, case), alone, step=1, share=1e-3)

    def test_with_four_workers_in_two_groups_heads_agree_inside_groups_only(self):
        spread = workers.on_cluster(4, train, Case(clusters=1, rotations=2, steps=2))
        heads = [one[2]["sub"][rank // 2] for rank, one in enumerate(spread)]
        self.assertAllEqual(heads[0][0], heads[1][0])
        self.assertAllEqual(heads[2][0], heads[3][0])
        self.assertNotAllClose(heads[0][0], heads[2][0])
        for one in spread[1:]:
            for got, expected in zip(one[2]["trunk"], spread[0][2]["trunk"]):
                self.assertAllEqual(got, expected)

    def test_the_step_is_gradient_descent_on_equation_5(self):
        """Against the loss written anew, its gradient, and one step of SGD by hand."""
        case = Case(clusters=1)
        (got,) = workers.on_cluster(1, train, case)
        ((expected, loss),) = workers.on_cluster(1, _by_hand, case)
        self.assert_same([{1: expected}], got, step=1, share=1e-3)
        sums = dict(zip(SUMS, got["sums"][0]))
        self.assertEqual(sums["images"], BATCH)
        self.assertAllClose(sums["loss"] / BATCH, loss, rtol=1e-5)
        self.assertAllClose(sums["loss"], sums["super_loss"] + sums["sub_loss"], rtol=1e-5)
        self.assertAllInRange([sums["super_hits"], sums["sub_hits"]], 0, BATCH)


def _distance(a, b):
    """Euclidean distance between two lists of arrays."""
    return np.sqrt(sum(np.sum((x - y) ** 2) for x, y in zip(a, b, strict=True)))


def _by_hand(cluster, case):
    """(weights after one step, loss) of one worker with four super-classes."""
    with cluster.strategy.scope():
        mirrored = new_trunk()
    plan = BatchPlan(case.clusters, case.rotations, BATCH, Topology(1, 4))
    start = Learner(cluster, plan, mirrored, case.stage, seed=7)
    start.start_round(0)
    trunk = new_trunk()
    v, subs = start.super_head.weights, [h.weights for h in start.sub_heads.values()]
    batch = global_batch(plan, 0)
    with tf.GradientTape() as tape:
        f = trunk(tf.constant(batch["image"]), training=True, dropout_mask=tf.ones([BATCH, FC]))
        f = tf.nn.relu(f["fc7"])
        p = tf.nn.log_softmax(f @ v[0] + v[1])
        loss = -tf.reduce_mean(tf.gather(p, batch["super_id"], batch_dims=1))
        for s, (kernel, bias) in enumerate(subs):
            mine = batch["super_id"] == s
            q = tf.nn.log_softmax(f[mine] @ kernel + bias)
            loss -= tf.reduce_sum(tf.gather(q, batch["sub_id"][mine], batch_dims=1)) / BATCH
    # The default scale: a sub-head's gradient is that of its own super-class' mean, 4 times Eq. 5.
    heads = [w for head in subs for w in head]
    weights = [*trunk.trainable_variables, *v, *heads]
    scales = [1.0] * (len(weights) - len(heads)) + [4.0] * len(heads)
    for w, g, scale in zip(weights, tape.gradient(loss, weights), scales):
        w.assign_sub(RATE * (scale * g + DECAY * w))
    weights = {
        "trunk": [w.numpy() for w in trunk.variables],
        "super": [w.numpy() for w in v],
        "sub": {s: [w.numpy() for w in head] for s, head in enumerate(subs)},
    }
    return weights, loss.numpy()


if __name__ == "__main__":
    tf.test.main()
