"""What travels as factors is what takes less time so, and the paper's bytes are those by hand."""

import dataclasses

import tensorflow as tf

from dc_tf.clustering.cost.hardware import CORE, P4D
from dc_tf.distributed.topology import Topology
from dc_tf.experiment import Optimizer, load
from dc_tf.planning.exchange import (
    DenseLayer,
    dense_layers,
    factored,
    head_shapes,
    machine_of,
    own_in_blocks,
    updated_in_blocks,
)
from dc_tf.planning.plan import make_plan
from dc_tf.planning.report import as_dict, as_text
from dc_tf.planning.training_cost import StageSize

# The paper's head on the 4 workers of a super-class, 48 images each.
HEAD = DenseLayer("sub head", 4096, 80_000, members=4, rows=192)


def paper(**model):
    overrides = [f"model.{name}={value}" for name, value in model.items()]
    return load(["deepercluster_yfcc100m"], ["data.path=x", *overrides])


def layers(workers, machine=P4D, **model):
    experiment = paper(**model)
    stage = experiment.stages[0]
    topology = Topology(workers, stage.super_classes)
    found = dense_layers(experiment.model, stage, topology, machine)
    return {layer.name: layer for layer in found}


def chosen(workers, machine=P4D, **model):
    experiment = paper(**model)
    stage = experiment.stages[0]
    topology = Topology(workers, stage.super_classes)
    return factored(experiment.model, stage, topology, machine)


class DenseLayerTest(tf.test.TestCase):
    def test_the_papers_head_takes_its_factors_instead_of_its_gradient(self):
        gradient = 4 * 4097 * 80_000
        self.assertEqual(HEAD.sent_as_gradients, 2 * gradient * 3 / 4)
        self.assertEqual(4 * HEAD.own_factors, 4 * 192 * 84_096)  # 64.6 MB in all
        self.assertEqual(HEAD.sent_as_factors, 3 * HEAD.own_factors)
        self.assertEqual(HEAD.further_flops, 2 * 144 * 4096 * 80_000)
        self.assertGreater(HEAD.sent_as_gradients / HEAD.sent_as_factors, 40)

    def test_seconds_count_bytes_latency_and_the_product(self):
        wire_s = (HEAD.sent_as_gradients - HEAD.sent_as_factors) / 6.25e9
        expected = wire_s - 3 * 20e-6 - HEAD.further_flops / 19.5e12
        self.assertAllClose(HEAD.saved_s(P4D), expected)
        halved = dataclasses.replace(HEAD, halved=True)
        self.assertGreater(halved.saved_s(P4D), HEAD.saved_s(P4D))

    def test_layers_are_those_that_several_workers_hold(self):
        self.assertEqual(layers(1), {})
        self.assertEqual(list(layers(64)), ["fc6", "fc7", "super head", "sub head"])
        self.assertNotIn("sub head", layers(16))  # one worker for each super-class
        found = layers(64)
        self.assertEqual((found["fc6"].inputs, found["fc6"].outputs), (25_088, 4096))
        self.assertEqual((found["fc6"].members, found["fc6"].rows), (64, 3072))
        self.assertEqual(found["sub head"], HEAD)

    def test_types_of_two_bytes_halve_what_travels_in_them(self):
        exact, half = layers(64)["fc6"], layers(64, compute_dtype="bfloat16")["fc6"]
        rounded = layers(64, CORE, exchange_dtype="bfloat16")["fc6"]
        self.assertEqual(half.own_factors, exact.own_factors / 2)
        self.assertEqual(half.sent_as_gradients, exact.sent_as_gradients)
        self.assertEqual(rounded.own_factors, exact.own_factors / 2)
        self.assertEqual(rounded.sent_as_gradients, exact.sent_as_gradients / 2)
        head = layers(64, compute_dtype="bfloat16")["sub head"]
        self.assertEqual(head, HEAD)  # heads compute in float32

    def test_over_nccl_gradients_of_many_workers_stay_whole(self):
        for workers, share in ((2, 1 / 2), (4, 1), (64, 1)):
            exact = layers(workers)["fc6"]
            rounded = layers(workers, exchange_dtype="bfloat16")["fc6"]
            self.assertEqual(rounded.own_factors, exact.own_factors / 2)
            self.assertEqual(rounded.sent_as_gradients, exact.sent_as_gradients * share)


class FactoredTest(tf.test.TestCase):
    def test_the_setting_forces_all_or_none(self):
        self.assertEqual(chosen(64, exchange="gradients"), frozenset())
        everything = {"fc6", "fc7", "super head", "sub head"}
        self.assertEqual(chosen(64, exchange="factors"), everything)
        self.assertEqual(chosen(1, exchange="factors"), frozenset())

    def test_auto_goes_by_time_on_the_hardware(self):
        self.assertEqual(chosen(64), {"fc6", "sub head"})
        # On one core the product of 3,072 rows takes longer than its wire the gradient.
        self.assertEqual(chosen(64, CORE), {"sub head"})
        # With more images of a worker than a layer has inputs, the gradient is smaller.
        few = DenseLayer("super head", 4096, 16, members=64, rows=3072)
        self.assertLess(few.saved_s(P4D), 0)

    def test_the_choice_is_for_the_wire_that_a_setting_names(self):
        """On a slow one fc7 pays too, on a fast one fc6 no more; a step is 3 and 8 % shorter."""
        for gbps, names in (
            (0, {"fc6", "sub head"}),
            (10, {"fc6", "fc7", "sub head"}),
            (400, {"sub head"}),
        ):
            experiment = paper(exchange_gbps=gbps)
            size = StageSize.of(experiment, experiment.stages[0], 64, on_gpu=True)
            self.assertEqual(set(size.factored), names)
            self.assertEqual(chosen(64, machine_of(experiment.model, on_gpu=True)), names)
        self.assertIs(machine_of(paper().model, on_gpu=False), CORE)

    def test_projections_count_with_a_bias_behind_batch_norm_only(self):
        experiment = paper()
        stage = experiment.stages[0].replace(projection={"hidden": 12, "dim": 8})
        found = dense_layers(experiment.model, stage, Topology(16, 16), P4D)
        weights = {layer.name: layer.weights for layer in found}
        self.assertEqual(weights["projection hidden"], 4096 * 12)
        self.assertEqual(weights["projection output"], 13 * 8)
        self.assertEqual(head_shapes(experiment.model, stage)["sub head"][0], 8)

    def test_large_heads_are_updated_in_blocks_by_plain_sgd_only(self):
        large = 4096 * 80_000
        self.assertTrue(updated_in_blocks(large, Optimizer()))
        self.assertFalse(updated_in_blocks(4096, Optimizer()))
        self.assertFalse(updated_in_blocks(large, Optimizer(momentum=0.0)))
        self.assertFalse(updated_in_blocks(large, Optimizer(name="LARS")))
        clipped = Optimizer()
        clipped.options.override({"clipnorm": 1.0}, is_strict=False)
        self.assertFalse(updated_in_blocks(large, clipped))

    def test_a_large_head_of_one_worker_is_updated_in_blocks_where_factors_are_asked_for(self):
        experiment = paper(exchange="factors")
        stage = experiment.stages[0]
        for workers, own in ((1, {"sub head"}), (16, {"sub head"}), (64, set())):
            topology = Topology(workers, stage.super_classes)
            self.assertEqual(own_in_blocks(experiment.model, stage, topology), own)
        for exchange in ("gradients", "auto"):
            other = experiment.model.replace(exchange=exchange)
            self.assertEmpty(own_in_blocks(other, stage, Topology(16, 16)))
        # The factors of so many rows are no small matter.
        many = stage.replace(batch_size=16 * 500)
        self.assertEmpty(own_in_blocks(experiment.model, many, Topology(16, 16)))

    def test_its_factors_are_in_the_memory_of_the_plan_instead_of_its_gradient(self):
        experiment = paper(exchange="factors")
        (stage,) = experiment.stages
        for workers, heads in ((4, 4), (16, 1), (64, 1)):
            size = StageSize.of(experiment, stage, workers)
            rest = 4096 * 80_000 - 192 * 84_096
            self.assertEqual(size.unformed_gradients, heads * rest)


class PlanTest(tf.test.TestCase):
    def test_dense_layers_of_the_paper_send_a_fifth_of_their_gradients(self):
        found = layers(64)
        names = chosen(64)
        sent = sum(
            layer.sent_as_factors if name in names else layer.sent_as_gradients
            for name, layer in found.items()
        )
        self.assertLess(sent, sum(layer.sent_as_gradients for layer in found.values()) / 5)

    def test_the_plan_names_what_travels_as_factors(self):
        plan = make_plan(paper(), 96_000_000, 64, on_gpu=True)
        text = (
            "exchange: a worker sends 650 MB a step, fc6, sub head as factors (3.02 GB as float32"
        )
        self.assertIn(text, as_text(plan))
        (stage,) = as_dict(plan)["stages"]
        self.assertEqual(stage["factors"], ["fc6", "sub head"])
        self.assertLess(stage["step_bytes"], stage["step_bytes_as_gradients"] / 4)
        gradients = make_plan(paper(exchange="gradients"), 96_000_000, 64, on_gpu=True)
        saved = gradients.device_bytes - plan.device_bytes
        # The head's gradient is never formed as a whole; the factors of 192 rows are.
        self.assertEqual(saved, 4 * (4096 * 80_000 - 192 * 84_096))
        self.assertNotIn("factors", as_text(gradients))


if __name__ == "__main__":
    tf.test.main()
