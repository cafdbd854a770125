"""The cost of a step is the sum of its parts, less what the backward pass hides."""

import dataclasses
import importlib
import json
import pathlib
import sys
from unittest import mock

import tensorflow as tf

from dc_tf.clustering.cost.hardware import CORE, P4D
from dc_tf.distributed.topology import Topology
from dc_tf.experiment import load
from dc_tf.planning.network import Network
from dc_tf.planning.step_cost import BACKWARD, H100, StepCost, step_cost

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
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
        convs = 9 * (256 * 512 + 5 * 512 * 512)  # kernels of a million values and more
        self.assertAllClose(found.early_s, (dense + 2 * 4 * 63 / 64 * convs) / 6.25e9)
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
        parts = cost(stage_changes={"accumulate": 4}, machine=NO_LATENCY)
        self.assertEqual(parts.hidden_s, 0)
        whole = cost(machine=NO_LATENCY)
        self.assertAllClose(parts.late_s, whole.early_s + whole.late_s)
        self.assertAllClose(parts.statistics_s, 4 * whole.statistics_s)

    def test_each_exchange_of_batch_norm_waits_for_its_latency(self):
        more = cost().statistics_s - cost(machine=NO_LATENCY).statistics_s
        self.assertAllClose(more, 26 * 2 * 6 * P4D.wire_latency_s)  # there and back in a tree
        at_once = cost(machine=CORE).statistics_s
        bytes_s = 63 * 2 * 4 * (2 * 4224 + 13) / CORE.wire_bytes_per_s
        self.assertAllClose(at_once, 26 * CORE.wire_latency_s + bytes_s)

    def test_without_exchanges_of_batch_norm_gradients_leave_as_early(self):
        found = cost(sync_batch_norm="off")
        self.assertEqual(found.statistics_s, 0)
        self.assertAllClose((found.early_s, found.late_s), (cost().early_s, cost().late_s))

    def test_handling_messages_takes_time_from_computing(self):
        busy = dataclasses.replace(CORE, message_cpu_s=2 / CORE.wire_bytes_per_s)
        free = dataclasses.replace(CORE, message_cpu_s=0.0)
        free, found = (cost(machine=one, compute_s=100.0) for one in (free, busy))
        handling_s = found.early_cpu_s + found.late_cpu_s
        self.assertAllClose(found.step_s - free.step_s, handling_s - free.late_s, rtol=2e-2)
        self.assertAllClose(found.busy_s + found.waiting_s, found.step_s)

    def test_what_limits_a_step_is_named(self):
        self.assertEqual(cost(compute_s=100.0).limit, "computing")
        slow = dataclasses.replace(P4D, wire_bytes_per_s=1e8)
        self.assertEqual(cost(machine=slow, compute_s=0.1).limit, "the wire")
        far = dataclasses.replace(P4D, wire_latency_s=1e-2)
        self.assertEqual(cost(workers=4, machine=far, compute_s=0.1).limit, "latency of batch norm")
        self.assertLess(cost(compute_s=0.1).efficiency, cost(compute_s=1.0).efficiency)

    def test_what_auto_chooses_is_fastest(self):
        for workers in (4, 16, 64):
            for dtype in ("float32", "bfloat16"):
                chosen = cost(workers, compute_s=0, exchange_dtype=dtype).step_s
                for forced in ("gradients", "factors"):
                    other = cost(workers, compute_s=0, exchange=forced, exchange_dtype=dtype)
                    self.assertLessEqual(chosen, other.step_s + 2e-3)


class GpuTest(tf.test.TestCase):
    def test_the_measured_gpu_takes_the_measured_time(self):
        """20.4 and 101.9 ms for 48 images and a head of 20,000 (benchmarks/results/gpu.md)."""
        for dtype, ms in (("bfloat16", 20.4), ("float32", 101.9)):
            experiment = load(
                ["deepercluster_yfcc100m"],
                [{"data": {"path": "x"}, "model": {"compute_dtype": dtype}}],
            )
            stage = experiment.stages[0].replace(sub_clusters=20_000, batch_size=48)
            self.assertAllClose(1e3 * H100.compute_s(experiment.model, stage, 1), ms, rtol=0.05)
            several = H100.compute_s(experiment.model, stage.replace(batch_size=192), 4)
            self.assertAllClose(1e3 * several, ms, rtol=0.05)


class MeasuredTest(tf.test.TestCase):
    """What `benchmarks/step_scaling.py` has measured, beside the model as it is now."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.results = json.loads((BENCHMARKS / "results" / "step_scaling.json").read_text())
        with mock.patch.object(sys, "path", [str(BENCHMARKS), *sys.path]):
            cls.of_steps = importlib.import_module("step_tables")
            cls.tables = importlib.import_module("scaling_tables")

    def test_predictions_are_within_a_quarter(self):
        points = self.results["points"]
        self.assertGreater(len({line["rate"] for line in points}), 3)
        for line in points:
            predicted = self.of_steps.predicted(self.results["constants"], line)
            self.assertBetween(line["measured_s"] / predicted.step_s, 0.8, 1.25)

    def test_so_are_those_that_a_dry_run_prints(self):
        """Of two workers on two cores; four on them have less than a core each."""
        measured = [line for line in self.results["points"] if line["workers"] == 2]
        measured = [line for line in measured if line["kind"] == "factors"]
        self.assertGreater(len(measured), 4)
        for line in measured:
            network = Network(self.of_steps.gbps(line["rate"]))
            if line["latency_s"]:
                network = Network(network.gbps, 2100 + 1e6 * line["latency_s"])
            machine = network.machine(on_gpu=False)
            predicted = self.of_steps.predicted(self.results["constants"], line, machine)
            self.assertBetween(line["measured_s"] / predicted.step_s, 0.8, 1.25)

    def test_the_document_has_the_tables_that_the_model_gives(self):
        document = BENCHMARKS.parent / "docs" / "scaling.md"
        copy = pathlib.Path(self.get_temp_dir()) / "scaling.md"
        copy.write_text(document.read_text(encoding="utf-8"), encoding="utf-8")
        self.tables.write(copy, self.results, self.of_steps.TABLES)
        self.assertEqual(
            copy.read_text(encoding="utf-8"),
            document.read_text(encoding="utf-8"),
            "run benchmarks/step_scaling.py --parts=tables",
        )


if __name__ == "__main__":
    tf.test.main()
