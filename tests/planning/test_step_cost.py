"""The cost of a step is the sum of its parts, less what the backward pass hides."""

import dataclasses

import tensorflow as tf

from dc_tf.clustering.cost.hardware import P4D
from dc_tf.distributed.topology import Topology
from dc_tf.experiment import load
from dc_tf.planning.step_cost import BACKWARD, StepCost, step_cost

NO_LATENCY = dataclasses.replace(P4D, wire_latency_s=0.0)


def cost(workers=64, machine=P4D, compute_s=0.5, stage_changes=None, **model):
    experiment = load(["deepercluster_yfcc100m"], [{"data": {"path": "x"}, "model": model}])
    stage = experiment.stages[0].replace(**(stage_changes or {}))
    topology = Topology(workers, stage.super_classes)
    return step_cost(experiment.model, stage, topology, machine, compute_s)


class StepCostTest(tf.test.TestCase):
    def test_alone_a_step_is_what_it_computes(self):
        self.assertEqual(cost(workers=1), StepCost(0.5, 0, 0, 0, 0))
        self.assertEqual(cost(workers=1).step_s, 0.5)

    def test_without_latency_messages_take_their_bytes(self):
        found = cost(machine=NO_LATENCY, exchange="gradients")
        dense = 2 * 4 * (63 / 64 * (25_089 + 4097) * 4096 + 3 / 4 * 4097 * 80_000)
        self.assertAllClose(found.early_s, dense / 6.25e9)
        shared = 134_260_544 + 2 * 4224 - 3 * 3 * 64 + 16 * 4097 + 1  # trunk, V, whether to stop
        statistics = 2 * (2 * 4224 + 13)
        world = 2 * 4 * 63 / 64 * (shared + statistics)
        self.assertAllClose(found.wire_s, (world + 2 * 4 * 3 / 4 * 4097 * 80_000) / 6.25e9)
        self.assertEqual(found.product_s, 0)

    def test_messages_hide_behind_the_backward_pass_as_far_as_it_lasts(self):
        long, short = cost(compute_s=10.0), cost(compute_s=1e-3)
        self.assertAllClose(long.step_s, 10 + long.product_s + long.statistics_s + long.late_s)
        self.assertAllClose(short.hidden_s, BACKWARD * 1e-3)
        self.assertAllClose(short.step_s, 1e-3 + short.product_s + short.wire_s - short.hidden_s)

    def test_parts_of_a_batch_hide_nothing(self):
        parts = cost(stage_changes={"accumulate": 4})
        self.assertEqual(parts.hidden_s, 0)
        whole = cost()
        self.assertAllClose(parts.late_s, whole.early_s + whole.late_s)
        self.assertAllClose(parts.statistics_s, 4 * whole.statistics_s)

    def test_each_exchange_of_batch_norm_waits_for_its_latency(self):
        rounds = 2 * 63
        more = cost().statistics_s - cost(machine=NO_LATENCY).statistics_s
        self.assertAllClose(more, 26 * rounds * P4D.wire_latency_s)
        self.assertEqual(cost(sync_batch_norm="off").statistics_s, 0)

    def test_what_auto_chooses_is_fastest(self):
        for workers in (4, 16, 64):
            for dtype in ("float32", "bfloat16"):
                chosen = cost(workers, compute_s=0, exchange_dtype=dtype).step_s
                for forced in ("gradients", "factors"):
                    other = cost(workers, compute_s=0, exchange=forced, exchange_dtype=dtype)
                    self.assertLessEqual(chosen, other.step_s + 2e-3)


if __name__ == "__main__":
    tf.test.main()
