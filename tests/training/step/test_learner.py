"""One step on several workers is the step of one worker, whoever serves which super-class."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf
import workers
from step_case import (
    BATCH,
    DECAY,
    FC,
    RATE,
    RESOLUTION,
    SUBS,
    Case,
    global_batch,
    mine,
    new_learner,
    new_trunk,
    own_batch,
    train,
)

from dc_tf.data.input.batch_plan import BatchPlan
from dc_tf.distributed.topology import Topology
from dc_tf.experiment import Model, Optimizer, Views
from dc_tf.training.step.learner import Learner
from dc_tf.training.step.step_metrics import unpack

pytestmark = pytest.mark.numeric


class Compared(tf.test.TestCase):
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


class StepTest(Compared):
    def check(self, case, sizes, rtol=1e-4, noise=0.0):
        """ReLU and max-pooling amplify rounding from step to step, even on one worker.

        A wrong scale, a missed gradient or a missed statistic would make the distance a multiple
        of these bounds; a change of the images on one worker by rounding, `noise`, stays below.
        """
        (alone,) = workers.on_cluster(1, train, case)
        spread = {}
        if noise:
            spread[1] = workers.on_cluster(1, train, dataclasses.replace(case, noise=noise))
        for size in sizes:
            spread[size] = workers.on_cluster(size, train, case)
        for results in spread.values():
            self.assert_same(results, alone, step=1, share=1e-3)
            self.assert_same(results, alone, step=case.steps, share=2e-2)
            served = {s for one in results for s in one[0]["sub"]}
            self.assertCountEqual(served, range(case.stage.super_classes))
            for one in results:
                self.assertAllClose(one["sums"][0], alone["sums"][0], rtol=rtol)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_one_and_ten_steps_with_4_super_classes_are_the_same_on_1_and_2_workers(self):
        self.check(Case(steps=10), sizes=(2,))

    @pytest.mark.extended
    def test_a_resnet_with_default_dropout_takes_the_same_step_on_1_and_2_workers(self):
        self.check(Case(kind="resnet18", model=Model(trunk="resnet18")), (2,), rtol=1e-3)

    @pytest.mark.extended
    def test_a_resnet_takes_the_same_three_steps_on_1_and_4_workers(self):
        self.check(Case(kind="resnet18", clusters=2, steps=3), (4,), rtol=1e-3)

    @pytest.mark.slow
    def test_one_and_ten_steps_with_4_super_classes_are_the_same_on_1_and_4_workers(self):
        self.check(Case(steps=10), sizes=(4,), noise=1e-6)

    @pytest.mark.extended
    def test_one_and_ten_steps_with_8_super_classes_are_the_same_on_1_2_and_4_workers(self):
        self.check(Case(clusters=2, steps=10), sizes=(2, 4))

    @pytest.mark.extended
    def test_factors_forced_on_and_off_take_the_step_of_one_worker_on_4(self):
        for exchange in ("factors", "gradients"):
            model = Model(dropout=False, exchange=exchange)
            for rotations in (1, 2):
                self.check(Case(rotations=rotations, steps=3, model=model), sizes=(4,))

    @pytest.mark.extended
    def test_dropout_does_not_depend_on_the_number_of_workers(self):
        case = Case(model=Model())
        (alone,) = workers.on_cluster(1, train, case)
        self.assert_same(workers.on_cluster(2, train, case), alone, step=1, share=1e-3)

    @pytest.mark.slow
    def test_with_four_workers_in_two_groups_heads_agree_inside_groups_only(self):
        spread = workers.on_cluster(4, train, Case(rotations=2, steps=2))
        heads = [one[2]["sub"][rank // 2] for rank, one in enumerate(spread)]
        self.assertAllEqual(heads[0][0], heads[1][0])
        self.assertAllEqual(heads[2][0], heads[3][0])
        self.assertNotAllClose(heads[0][0], heads[2][0])
        for one in spread[1:]:
            for got, expected in zip(one[2]["trunk"], spread[0][2]["trunk"], strict=True):
                self.assertAllEqual(got, expected)

    @pytest.mark.extended
    def test_the_product_loss_does_not_depend_on_the_number_of_workers(self):
        case = Case(loss="product", steps=2)
        (alone,) = workers.on_cluster(1, train, case)
        self.assertEqual(alone[0]["super"][0].shape, (FC, 4 * SUBS))
        self.assertEqual(alone[0]["sub"], {})
        self.assert_same(workers.on_cluster(2, train, case), alone, step=2, share=1e-2)

    @pytest.mark.extended
    def test_any_optimizer_of_keras_does_not_depend_on_the_number_of_workers(self):
        optimizer = Optimizer(name="Adam", learning_rate=RATE)
        optimizer.options.override({"global_clipnorm": 0.1, "epsilon": 1e-3}, is_strict=False)
        (alone,) = workers.on_cluster(1, train, Case(optimizer=optimizer))
        spread = workers.on_cluster(2, train, Case(optimizer=optimizer))
        self.assert_same(spread, alone, step=1, share=1e-2)

    @pytest.mark.extended
    def test_lars_does_not_depend_on_the_number_of_workers(self):
        optimizer = Optimizer(name="LARS", learning_rate=1.0, weight_decay=DECAY)
        (alone,) = workers.on_cluster(1, train, Case(optimizer=optimizer))
        spread = workers.on_cluster(2, train, Case(optimizer=optimizer))
        self.assert_same(spread, alone, step=1, share=1e-2)

    @pytest.mark.extended
    def test_xla_changes_rounding_only(self):
        for size in (1, 2):
            model = Model(dropout=False, sync_batch_norm="off")
            compiled = dataclasses.replace(model, xla=True)
            plain, xla = (
                workers.on_cluster(size, train, Case(model=each)) for each in (model, compiled)
            )
            for one, other in zip(xla, plain, strict=True):
                self.assert_same([one], other, step=1, share=1e-3)
                self.assertAllClose(one["sums"], other["sums"], rtol=1e-3)


def collectives_of_a_step(cluster, case):
    """Names of the collective operations in the graph of this worker's step."""
    learner, plan = new_learner(cluster, case)
    batch = own_batch(plan, cluster.rank, 0, case)
    graph = learner.step.get_concrete_function(batch, tf.constant(0)).graph.as_graph_def()
    nodes = itertools.chain(graph.node, *(f.node_def for f in graph.library.function))
    return {node.op for node in nodes if node.op.startswith("Collective")}


class AloneTest(tf.test.TestCase):
    @pytest.mark.slow
    def test_one_worker_exchanges_nothing_whatever_is_chosen(self):
        for exchange in ("auto", "gradients", "factors"):
            case = Case(model=Model(exchange=exchange, exchange_dtype="bfloat16"))
            (alone,) = workers.on_cluster(1, collectives_of_a_step, case)
            self.assertEmpty(alone)
        for found in workers.on_cluster(2, collectives_of_a_step, case):
            self.assertNotEmpty(found)

    @pytest.mark.slow
    def test_repeated_steps_are_the_same_to_the_bit(self):
        first, second = (workers.on_cluster(1, train, Case(steps=2))[0] for _ in range(2))
        for part in ("trunk", "super"):
            for one, other in zip(first[2][part], second[2][part], strict=True):
                self.assertAllEqual(one, other)


class ViewsTest(Compared):
    """Views make the batch larger, and with it the chance that rounding moves a value across the
    kink of ReLU, which changes a gradient by 1 %. A view that is lost, counted twice or normalised
    with others changes it by a multiple of that.
    """

    def check(self, case, size, rtol=1e-4):
        """One step has the same weights of trunk and heads, and the same metrics."""
        (alone,) = workers.on_cluster(1, train, case)
        spread = workers.on_cluster(size, train, case)
        self.assert_same(spread, alone, step=1, share=2e-2)
        for one in spread:
            self.assert_same_sums(one["sums"][0], alone["sums"][0], rtol)

    def assert_same_sums(self, sums, others, rtol=1e-4):
        sums, others = unpack(sums), unpack(others)
        for name, value in sums.items():
            is_gradient = name.endswith("_gradient")
            self.assertAllClose(value, others[name], rtol=1e-2 if is_gradient else rtol, msg=name)

    @pytest.mark.slow
    def test_two_global_and_two_local_views_are_the_same_on_1_and_2_workers(self):
        case = Case(
            views=Views(global_views=2, local_views=2, local_size=RESOLUTION), model=Model()
        )  # with dropout
        self.check(case, size=2)

    @pytest.mark.slow
    def test_identical_views_are_as_one(self):
        model = Model(dropout=False, sync_batch_norm="off")
        case = Case(views=Views(global_views=3), images="identical", model=model)
        (views,), (one,) = (
            workers.on_cluster(1, train, each) for each in (case, Case(model=model))
        )
        self.assert_same_sums(views["sums"][0], one["sums"][0])
        trained = [v.trainable for v in new_trunk().variables]
        # Running variances are unbiased, of three times as many values.
        for found in (views, one):
            for weights in (found[0], found[1]):
                weights["trunk"] = list(itertools.compress(weights["trunk"], trained))
        self.assert_same([views], one, step=1, share=2e-2)

    @pytest.mark.slow
    def test_views_are_further_images_with_the_same_labels(self):
        pairs = Case(images="examples", batch=2 * BATCH)
        (views,) = workers.on_cluster(1, train, Case(views=Views(global_views=2)))
        (images,) = workers.on_cluster(1, train, pairs)
        self.assert_same([views], images, step=1, share=2e-2)
        of_views, of_images = unpack(views["sums"][0]), unpack(images["sums"][0])
        self.assertEqual((of_views["images"], of_images["images"]), (BATCH, 2 * BATCH))
        for name in ("loss", "super_hits", "rotation_hits", "sub_hits"):
            self.assertAllClose(2 * of_views[name], of_images[name], rtol=1e-4)

    @pytest.mark.extended
    def test_smaller_local_views_of_a_resnet_without_sobel_are_the_same_on_1_and_2_workers(self):
        views = Views(global_views=2, local_views=2, local_size=RESOLUTION // 2)
        case = Case(views=views, kind="resnet18", model=Model(dropout=False, sobel=False))
        # Statistics over maps of 2 x 2 pixels enlarge the rounding of sums in another order.
        self.check(case, size=2, rtol=1e-3)

    @pytest.mark.extended
    def test_parts_of_a_batch_have_all_views_of_their_images_on_any_number_of_workers(self):
        case = Case(views=Views(local_views=2, local_size=RESOLUTION), accumulate=2, loss="product")
        self.check(case, size=2)


@pytest.mark.tf215
class ByHandTest(Compared):
    """Against the loss written anew, its gradient, and one step of SGD by hand."""

    def check(self, case, size=1, parts=None):
        """`parts` are the places in the batch of the images that are normalised together."""
        found = workers.on_cluster(size, train, case)
        parts = parts or [np.arange(BATCH)]
        (by_hand,) = workers.on_cluster(1, _by_hand, case, [list(part) for part in parts])
        for one in found:
            expected = dict(by_hand["weights"])
            expected["sub"] = {s: expected["sub"][s] for s in one[0]["sub"]}
            self.assert_same([{1: expected}], one, step=1, share=1e-3)
            sums = unpack(one["sums"][0])
            self.assertEqual(sums["images"], BATCH)
            self.assertAllClose(sums["loss"] / BATCH, by_hand["loss"], rtol=1e-5)
            self.assertAllClose(sums["loss"], sums["super_loss"] + sums["sub_loss"], rtol=1e-5)
            self.assertAllInRange([sums["super_hits"], sums["sub_hits"]], 0, BATCH)
            norms = [sums["trunk_gradient"], sums["head_gradient"]]
            self.assertAllClose(norms, by_hand["squared_norms"], rtol=1e-3)
            self.assertAllClose(sums["steps"], 1.0)

    def test_the_step_is_gradient_descent_on_equation_5(self):
        self.check(Case())

    @pytest.mark.slow
    def test_with_the_literal_scale_too(self):
        optimizer = Optimizer(learning_rate=RATE, weight_decay=DECAY, literal_head_scale=True)
        self.check(Case(optimizer=optimizer))

    @pytest.mark.slow
    def test_the_product_loss_is_gradient_descent_on_equation_4(self):
        self.check(Case(clusters=2, loss="product"))

    @pytest.mark.slow
    def test_parts_of_a_batch_add_up_and_are_normalised_apart(self):
        self.check_parts(1)

    @pytest.mark.slow
    def test_parts_of_a_batch_on_two_workers_are_those_of_the_whole_batch(self):
        self.check_parts(2)

    def check_parts(self, size):
        self.check(Case(accumulate=2), size, [np.arange(i, BATCH, 2) for i in (0, 1)])

    @pytest.mark.slow
    def test_each_worker_normalises_its_own_images(self):
        case = Case(model=Model(dropout=False, sync_batch_norm="off"))
        self.check(case, 2, [mine(_plan(case, 2), rank) for rank in (0, 1)])

    @pytest.mark.extended
    def test_each_group_normalises_its_own_images(self):
        case = Case(rotations=2, model=Model(dropout=False, sync_batch_norm="group"))
        plan = _plan(case, 4)
        parts = [np.concatenate([mine(plan, 2 * g), mine(plan, 2 * g + 1)]) for g in (0, 1)]
        self.check(case, 4, parts)


class HalfTest(Compared):
    MODEL = Model(dropout=False, compute_dtype="float16")

    @pytest.mark.bfloat16  # oneDNN that may use AVX2 only has no float16 either
    @pytest.mark.slow
    def test_a_step_in_float16_is_nearly_that_in_float32(self):
        (exact,) = workers.on_cluster(1, train, Case())
        (half,) = workers.on_cluster(1, train, Case(model=self.MODEL))
        self.assert_same([half], exact, step=1, share=0.1)
        self.assertEqual(half["scale"], 2.0**15)

    @pytest.mark.slow
    def test_a_step_that_overflows_anywhere_is_left_out_everywhere(self):
        case = Case(rotations=2, model=dataclasses.replace(self.MODEL, sync_batch_norm="off"))
        results = workers.on_cluster(2, train, dataclasses.replace(case, overflow=True))
        self.assertEqual([one["scale"] for one in results], [2.0**14, 2.0**99])
        for one in results:
            trained = [variable.trainable for variable in new_trunk().variables]
            before, after = ([*w["super"], *sum(w["sub"].values(), [])] for w in (one[0], one[1]))
            before += itertools.compress(one[0]["trunk"], trained)
            after += itertools.compress(one[1]["trunk"], trained)
            for a, b in zip(after, before, strict=True):
                self.assertAllEqual(a, b)
            sums = unpack(one["sums"][0])
            taken = ("steps", "trunk_gradient", "head_gradient")
            self.assertAllEqual([sums[name] for name in taken], [0, 0, 0])


def _distance(a, b):
    """Euclidean distance between two lists of arrays."""
    return np.sqrt(sum(np.sum((x - y) ** 2) for x, y in zip(a, b, strict=True)))


def _plan(case, size):
    return BatchPlan(case.clusters, case.rotations, BATCH, Topology(size, case.stage.super_classes))


def _by_hand(cluster, case, parts):
    """One worker's weights after one step, the loss, and the squared norms of the gradients.

    Running statistics are a mean over the parts where workers have one each, else they follow one
    part after the other.
    """
    with cluster.strategy.scope():
        mirrored = new_trunk()
    plan = _plan(case, 1)
    start = Learner(cluster, plan, mirrored, case.stage, case.model, seed=7)
    start.start_round(0)
    trunk = new_trunk()
    v, subs = start.heads.super_head.weights, [h.weights for h in start.heads.sub_heads.values()]
    batch = global_batch(plan, 0)
    heads = [w for head in subs for w in head]
    weights = [*trunk.trainable_variables, *v, *heads]
    gradients, loss = [tf.zeros_like(w) for w in weights], 0.0
    running = [w.numpy() for w in trunk.non_trainable_variables]
    after = []
    for part in parts:
        if case.accumulate == 1:
            for w, value in zip(trunk.non_trainable_variables, running, strict=True):
                w.assign(value)
        with tf.GradientTape() as tape:
            of_part = _loss_by_hand(trunk, v, subs, {k: x[part] for k, x in batch.items()}, case)
        gradients = [a + b for a, b in zip(gradients, tape.gradient(of_part, weights), strict=True)]
        loss += of_part.numpy()
        after.append([w.numpy() for w in trunk.non_trainable_variables])
    if case.accumulate == 1:
        for w, *values in zip(trunk.non_trainable_variables, *after, strict=True):
            w.assign(np.mean(values, 0))
    # The default scale: a sub-head's gradient is that of its own super-class' mean, S times Eq. 5.
    scale = 1.0 if case.optimizer.literal_head_scale else float(case.stage.super_classes)
    scales = [1.0] * (len(weights) - len(heads)) + [scale] * len(heads)
    gradients = [scale * g for g, scale in zip(gradients, scales, strict=True)]
    for w, g in zip(weights, gradients, strict=True):
        w.assign_sub(RATE * (g + DECAY * w))
    norms = [float(tf.reduce_sum(tf.square(g))) for g in gradients]
    trained = len(trunk.trainable_variables)
    return {
        "weights": {
            "trunk": [w.numpy() for w in trunk.variables],
            "super": [w.numpy() for w in v],
            "sub": {s: [w.numpy() for w in head] for s, head in enumerate(subs)},
        },
        "loss": loss,
        "squared_norms": [sum(norms[:trained]), sum(norms[trained:])],
    }


def _loss_by_hand(trunk, v, subs, batch, case):
    """A part's share of the mean over the batch: Eq. 5, or Eq. 4 with all pairs in one softmax."""
    images = tf.constant(batch["image"])
    f = trunk(images, training=True, dropout_mask=tf.ones([len(images), FC]))
    f = tf.nn.relu(f["fc7"])
    p = tf.nn.log_softmax(f @ v[0] + v[1])
    if case.loss == "product":
        pairs = batch["super_id"] * SUBS + batch["sub_id"]
        return -tf.reduce_sum(tf.gather(p, pairs, batch_dims=1)) / BATCH
    loss = -tf.reduce_sum(tf.gather(p, batch["super_id"], batch_dims=1)) / BATCH
    for s, (kernel, bias) in enumerate(subs):
        own = batch["super_id"] == s
        q = tf.nn.log_softmax(f[own] @ kernel + bias)
        loss -= tf.reduce_sum(tf.gather(q, batch["sub_id"][own], batch_dims=1)) / BATCH
    return loss


if __name__ == "__main__":
    tf.test.main()
