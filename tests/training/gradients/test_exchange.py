"""A step whose workers exchange factors, or bfloat16, is the step that exchanges gradients."""

import dataclasses
import functools
import itertools
import unittest.mock

import numpy as np
import pytest
import tensorflow as tf
import workers
from absl.testing import parameterized
from step_case import BATCH, DECAY, RATE, RESOLUTION, Case, new_trunk, train

from dc_tf.data.input.batch_plan import BatchPlan
from dc_tf.distributed.topology import Topology
from dc_tf.experiment import Model, Optimizer, Views
from dc_tf.training.step.step_metrics import mean_metrics

SHARED = Case(rotations=1)  # one super-class, so all workers hold its head
PLAIN = Model(dropout=False, exchange="gradients")
FACTORS = dataclasses.replace(PLAIN, exchange="factors")
BFLOAT16 = dataclasses.replace(FACTORS, exchange_dtype="bfloat16")


def optimizer(name, **changes):
    return Optimizer(name=name, learning_rate=RATE, weight_decay=DECAY, **changes)


def run(size, case, *models):
    """[[what `train` returns for each model] on each worker]."""
    return workers.on_cluster(size, _run, case, models)


def _run(cluster, case, models):
    return [train(cluster, dataclasses.replace(case, model=model)) for model in models]


@functools.cache
def shared(size):
    """[[of gradients, of factors] on each of `size` workers]."""
    return run(size, SHARED, PLAIN, FACTORS)


@functools.cache
def in_bfloat16(size):
    """[of factors in bfloat16 on each of `size` workers]."""
    return [found for (found,) in run(size, SHARED, BFLOAT16)]


def run_in_blocks(cluster, case):
    """`train` with every head that can be updated from its factors updated row by row."""
    import dc_tf.planning.exchange
    import dc_tf.training.optimizers.sgd
    from dc_tf.training.optimizers.sgd import FusedSGD

    whole = FusedSGD.apply_product
    with (
        unittest.mock.patch.object(dc_tf.planning.exchange, "_LEAST_IN_BLOCKS", 1),
        unittest.mock.patch.object(dc_tf.planning.exchange, "_SMALL_FACTORS", 1e-6),
        unittest.mock.patch.object(dc_tf.training.optimizers.sgd, "_block_bytes", lambda: 200),
        unittest.mock.patch.object(
            FusedSGD, "apply_product", autospec=True, side_effect=whole
        ) as used,
    ):
        found = train(cluster, case)
    assert used.called
    return found


def run_early(cluster, case):
    """`train` with gradients of small layers, too, leaving during the backward pass."""
    import dc_tf.planning.exchange

    with unittest.mock.patch.object(dc_tf.planning.exchange, "_LEAST_EARLY", 1):
        return train(cluster, case)


def aligned(cluster, case):
    """Weights and momentum of fc6 and of a head that differed between workers, aligned."""
    from dc_tf.training.step.learner import Learner

    plan = BatchPlan(case.clusters, case.rotations, BATCH, Topology(cluster.size, 1))
    with cluster.strategy.scope():
        trunk = new_trunk()
    learner = Learner(cluster, plan, trunk, case.stage, case.model)
    (head,) = learner.heads.sub_heads.values()
    both = [trunk.fc6.kernel, head.head.kernel]
    slots = [
        next(v for v in optimizer.variables if v.shape == kernel.shape)
        for optimizer, kernel in zip((learner.trunk_optimizer, head.optimizer), both, strict=True)
    ]
    with cluster.strategy.scope():
        for number, variable in enumerate([*both, *slots]):
            variable.assign(tf.fill(variable.shape, float(10 * number + cluster.rank + 1)))
    learner.align_weights()
    return [np.unique(variable.numpy()).tolist() for variable in (*both, *slots)]


class ExchangeTest(tf.test.TestCase, parameterized.TestCase):
    def check(self, case, size, rtol=2e-4, first=PLAIN, second=FACTORS):
        """One step is the same by each weight; its metrics too."""
        case = dataclasses.replace(case, steps=1)
        for plain, other in run(size, case, first, second):
            self.assert_same_step(plain, other, rtol)

    def assert_same_step(self, plain, other, rtol):
        for before, one, two in zip(*map(named, (plain[0], plain[1], other[1])), strict=True):
            moved = np.linalg.norm(one - before)
            self.assertLessEqual(np.linalg.norm(two - one), rtol * moved + 1e-9)
        self.assertAllClose(plain["sums"], other["sums"], rtol=1e-4)

    @pytest.mark.slow
    def test_two_workers_take_the_step_of_gradients(self):
        for plain, factors in shared(2):
            self.assert_same_step(plain, factors, rtol=2e-4)

    @pytest.mark.slow
    def test_alone_the_step_is_that_of_gradients_to_the_bit(self):
        ((plain, factors),) = shared(1)
        for other in (factors, *in_bfloat16(1)):
            for one, two in zip(named(plain[1]), named(other[1]), strict=True):
                self.assertAllEqual(one, two)

    @pytest.mark.slow
    def test_weights_that_differ_become_those_of_the_first_worker(self):
        for found in workers.on_cluster(2, aligned, dataclasses.replace(SHARED, model=FACTORS)):
            self.assertEqual(found, [[1], [11], [21], [31]])

    @pytest.mark.slow
    def test_ten_steps_in_blocks_of_rows_are_those_of_one_worker(self):
        case = dataclasses.replace(SHARED, steps=10, model=FACTORS)
        (alone,) = workers.on_cluster(1, train, case)
        spread = workers.on_cluster(2, run_in_blocks, case)
        for one in spread:
            for step, share in ((1, 1e-3), (10, 2e-2)):
                for part in ("super", "sub"):
                    start, end, found = (heads(w, part) for w in (alone[0], alone[step], one[step]))
                    self.assertLess(distance(found, end) / distance(start, end), share)
            self.assertAllClose(one["sums"][0], alone["sums"][0], rtol=1e-4)
        for one, two in zip(*(named(each[10]) for each in spread), strict=True):
            self.assertAllEqual(one, two)

    @pytest.mark.slow
    def test_one_worker_takes_the_same_steps_in_blocks_of_rows(self):
        """Several heads on a worker, in parts of a batch: each head has its own rows."""
        case = Case(rotations=2, accumulate=2, steps=3, model=PLAIN)
        (whole,) = workers.on_cluster(1, train, case)
        case = dataclasses.replace(case, model=FACTORS)
        (blocks,) = workers.on_cluster(1, run_in_blocks, case)
        for step in (1, 3):
            for part in ("super", "sub"):
                start, end, found = (heads(w, part) for w in (whole[0], whole[step], blocks[step]))
                self.assertLess(distance(found, end) / distance(start, end), 1e-3)
        self.assertAllClose(blocks["sums"][-1], whole["sums"][-1], rtol=1e-4)

    @pytest.mark.extended
    def test_two_workers_take_the_step_of_gradients_with_parts(self):
        self.check(dataclasses.replace(SHARED, accumulate=2), 2)

    @parameterized.named_parameters(
        ("the_product_loss", {"loss": "product", "rotations": 4}),
        ("views", {"views": Views(global_views=2, local_views=1, local_size=RESOLUTION)}),
        ("lars", {"optimizer": optimizer("LARS")}),
        ("adam", {"optimizer": optimizer("Adam")}, 2e-2),
        ("nesterov", {"optimizer": optimizer("SGD", nesterov=True)}),
        ("a_resnet", {"kind": "resnet18"}),
    )
    @pytest.mark.extended
    def test_two_workers_also_take_it_with(self, changes, rtol=2e-4):
        self.check(dataclasses.replace(SHARED, **changes), 2, rtol)

    @pytest.mark.extended
    def test_gradients_that_leave_early_give_the_same_step(self):
        early = workers.on_cluster(2, run_early, dataclasses.replace(SHARED, model=PLAIN))
        for (plain, _), other in zip(shared(2), early, strict=True):
            self.assert_same_step(plain, other, rtol=2e-4)

    @pytest.mark.extended
    def test_four_workers_in_two_groups_take_the_step_of_gradients_and_agree_on_it(self):
        case = Case(rotations=2, accumulate=2)
        self.check(case, 4)
        case = dataclasses.replace(case, steps=2, model=FACTORS)
        spread = workers.on_cluster(4, train, case)
        for rank, one in enumerate(spread):
            for part in ("trunk", "super"):
                for found, first in zip(one[2][part], spread[0][2][part], strict=True):
                    self.assertAllEqual(found, first)
            partner = spread[rank ^ 1][2]
            for found, other in zip(heads(one[2], "sub"), heads(partner, "sub"), strict=True):
                self.assertAllEqual(found, other)

    @pytest.mark.extended
    def test_compiled_parts_of_a_batch_give_the_same_factors(self):
        models = (
            dataclasses.replace(model, sync_batch_norm="off", xla=True)
            for model in (PLAIN, FACTORS)
        )
        case = dataclasses.replace(SHARED, accumulate=2)
        first, second = models
        self.check(case, 2, 1e-3, first, second)

    @pytest.mark.extended
    def test_a_step_that_overflows_on_one_worker_is_left_out_with_factors_too(self):
        model = dataclasses.replace(FACTORS, compute_dtype="float16", sync_batch_norm="off")
        case = dataclasses.replace(SHARED, model=model, overflow=True)
        whole, blocks = ((train, case), (run_in_blocks, case))
        for call in (whole, blocks):
            for one in workers.on_cluster(2, *call):
                for part in ("super", "sub"):
                    for before, after in zip(heads(one[0], part), heads(one[1], part), strict=True):
                        self.assertAllEqual(before, after)

    @pytest.mark.extended
    @pytest.mark.bfloat16
    def test_products_in_half_precision_are_exchanged_as_they_are(self):
        for dtype in ("float16", "bfloat16"):
            first, second = (
                dataclasses.replace(model, compute_dtype=dtype) for model in (PLAIN, FACTORS)
            )
            # Workers round the product of their own rows, or that of all rows.
            self.check(SHARED, 2, 2e-2, first, second)

    @pytest.mark.extended
    def test_after_ten_steps_losses_are_nearer_to_float32_than_those_of_seeds_to_one_another(self):
        for rate in (0.002, 0.02):
            case = dataclasses.replace(SHARED, steps=10, optimizer=Optimizer(learning_rate=rate))
            ends = []
            for seed in range(3):
                found = run(2, dataclasses.replace(case, seed=seed), PLAIN, BFLOAT16)[0]
                ends.append([mean_metrics(one["sums"][-1])["loss"] for one in found])
            exact, rounded = np.transpose(ends)
            print(f"rate {rate}: losses {exact}, bfloat16 less float32 {rounded - exact}")
            self.assertLess(np.abs(rounded - exact).max(), 0.5 * np.ptp(exact))

    def check_rounding(self, exact, rounded):
        # The bias before a batch norm has a gradient of rounding alone.
        steps = zip(*map(kernels, (exact[0], exact[1], rounded[1])), strict=True)
        apart = [distance([b], [a]) / distance([start], [a]) for start, a, b in steps]
        self.assertLess(max(apart), 2 * 2**-8)
        self.assertGreater(max(apart), 2**-13)

    @pytest.mark.slow
    def test_a_step_in_bfloat16_differs_from_float32_by_rounding_and_workers_agree(self):
        for (exact, _), other in zip(shared(2), in_bfloat16(2), strict=True):
            self.check_rounding(exact, other)
        for one, other in zip(*(named(found[1]) for found in in_bfloat16(2)), strict=True):
            self.assertAllEqual(one, other)

    @pytest.mark.extended
    def test_four_workers_in_bfloat16_differ_by_rounding_and_agree_too(self):
        found = run(4, SHARED, PLAIN, BFLOAT16)
        ((alone, *_),) = shared(1)
        for exact, other in found:
            self.check_rounding(exact, other)
            self.check_rounding(alone, other)
        for one in found[1:]:
            for value, other in zip(named(one[1][1]), named(found[0][1][1]), strict=True):
                self.assertAllEqual(value, other)

    @pytest.mark.extended
    def test_gradients_are_rounded_as_factors_are(self):
        of_gradients = dataclasses.replace(BFLOAT16, exchange="gradients")
        found = run(2, SHARED, PLAIN, of_gradients)
        for exact, other in found:
            self.check_rounding(exact, other)
        for one, other in zip(*(named(each[1][1]) for each in found), strict=True):
            self.assertAllEqual(one, other)


def named(weights):
    """All trained weights, in one order."""
    kind = "vgg16" if len(weights["trunk"]) == len(is_trained("vgg16")) else "resnet18"
    trunk = itertools.compress(weights["trunk"], is_trained(kind))
    return [*trunk, *weights["super"], *heads(weights, "sub")]


def kernels(weights):
    return [weight for weight in named(weights) if weight.ndim > 1]


@functools.cache
def is_trained(kind):
    """Whether each variable of the trunk is trained."""
    return [variable.trainable for variable in new_trunk(kind=kind).variables]


def heads(weights, part):
    found = weights[part]
    return list(found) if part == "super" else sum((found[s] for s in sorted(found)), [])


def distance(a, b):
    return np.sqrt(sum(np.sum((x - y) ** 2) for x, y in zip(a, b, strict=True)))


if __name__ == "__main__":
    tf.test.main()
