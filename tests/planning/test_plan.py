"""The plan says before a run what the run then does: counted here on real networks and steps."""

import os
import tempfile

import pytest
import runs
import tensorflow as tf
import workers

from dc_tf import keras
from dc_tf.clustering.cost.hardware import CORE, P4D
from dc_tf.clustering.cost.model import estimate
from dc_tf.errors import ConfigError
from dc_tf.experiment import Optimizer, Views, load, to_yaml
from dc_tf.nn.projection import Projection
from dc_tf.nn.trunks import trunk_of
from dc_tf.nn.vgg16 import VGG16
from dc_tf.planning import training_cost
from dc_tf.planning.bank_cost import BankSize
from dc_tf.planning.plan import Rates, make_plan
from dc_tf.planning.report import as_dict, as_text, seconds_of
from dc_tf.run_dir import RunDir
from dc_tf.training.monitoring.rates import rates_of
from dc_tf.training.optimizers.by_name import make_optimizer

ROWS = 128
PROTOTYPES = {
    "stage_head": "prototypes",
    "stage_projection": {"hidden": 12, "dim": 8},
    "stage_clustering": {"whiten": False, "spherical": True},
}
SHARED = {"stage_clusters": 1, "stage_rotations": 1}  # all workers hold the same sub head


def experiment(**changes):
    """runs.SETTINGS with some settings changed; "stage.x" changes its second stage."""
    settings = runs.settings("/data")
    stage = {k[6:]: v for k, v in changes.items() if k.startswith("stage_")}
    settings["stages"] = [settings["stages"][0], {**settings["stages"][1], **stage}]
    settings["model"] = {**settings["model"], **changes.get("model", {})}
    return load(params_override=[repr(settings)])


def count_step(cluster, settings):
    """(bytes that a worker sends in a step, weights that it holds) on this worker."""
    import numpy as np

    from dc_tf import experiment as experiment_lib
    from dc_tf.distributed.collectives import Collective
    from dc_tf.planning.stages import plan_stages
    from dc_tf.training.step.learner import Learner

    experiment = experiment_lib.load(params_override=[settings])
    plan = plan_stages(experiment, 128, cluster.size)[1]
    with cluster.strategy.scope():
        trunk = trunk_of(experiment.model).built_at_resolution()
    learner = Learner(cluster, plan, trunk, experiment.stages[1], experiment.model, stage_index=1)
    learner.start_round(0)
    sent, exchange = [], Collective._exchange
    others = cluster.size - 1
    # Of what a worker puts in: a sum's shares to their owners and back, all, the others' shares.
    shares = {
        tf.raw_ops.CollectiveReduceV2: 2 * others / cluster.size,
        tf.raw_ops.CollectiveGatherV2: others,
        tf.raw_ops.CollectiveAllToAllV2: others / cluster.size,
    }

    def counting(self, op, tensor, **arguments):
        sent.append(tensor.shape.num_elements() * tensor.dtype.size * shares[op])
        return exchange(self, op, tensor, **arguments)

    Collective._exchange = counting
    try:
        served = plan.topology.served(cluster.rank)
        stage = experiment.stages[1]
        views = stage.views
        shape = [] if views.count == 1 else [views.global_views]
        several = [stage.clusterings] if stage.clusterings > 1 else []
        batch = {
            "image": np.zeros([plan.per_worker, *shape, 32, 32, 3], np.float32),
            "local_image": np.zeros([plan.per_worker, views.local_views, 32, 32, 3], np.float32),
            "super_id": np.repeat(served, plan.per_served).astype(np.int32),
            "sub_id": np.zeros([plan.per_worker, *several], np.int32),
        }
        learner.step({k: tf.constant(v) for k, v in batch.items()}, tf.constant(0))
    finally:
        Collective._exchange = exchange
    weights = [*learner.shared_weights, *(w for head in learner.heads for w in head.weights)]
    return sum(sent), sum(w.shape.num_elements() for w in weights)


class SizeTest(tf.test.TestCase):
    def test_weights_of_the_trunk_are_those_of_the_network(self):
        for model in (
            {"width": 1 / 16, "resolution": 32, "fc": 16},
            {"width": 0.1, "resolution": 47, "fc": 24, "sobel": False},
            {"width": 0.05, "resolution": 64, "fc": 8},
        ):
            trunk = VGG16(**model).built_at_resolution()
            settings = experiment(model=model).model
            counts = [
                sum(v.shape.num_elements() for v in variables)
                for variables in (trunk.trainable_variables, trunk.non_trainable_variables)
            ]
            self.assertEqual(training_cost.trunk_weights(settings), counts[0])
            size = training_cost.StageSize.of(experiment(model=model), experiment().stages[0], 1)
            self.assertEqual(size.statistics, counts[1])

    def test_the_papers_trunk(self):
        # VGG-16 with 2 input channels, batch norm and 7 x 7 x 512 into fc6.
        weights = training_cost.trunk_weights(
            load(params_override=["{data: {path: x}, stages: [{}]}"]).model
        )
        self.assertEqual(weights, 134_260_544 + 2 * 4224 - 3 * 3 * 64)

    def test_optimizers_keep_what_is_planned(self):
        known = {"SGD", "Adam", "AdamW", "Nadam", "Adamax", "Adagrad", "Adadelta", "RMSprop"}
        self.assertContainsSubset(known, dir(keras.optimizers))
        for name in (*known, "Lion", "Ftrl", "LARS"):
            for momentum in (0.0, 0.9):
                settings = Optimizer(name=name, momentum=momentum)
                optimizer = make_optimizer(settings)
                weight = tf.Variable(tf.zeros([1000]))
                optimizer.build([weight])
                kept = sum(v.shape.num_elements() for v in optimizer.variables) // 1000
                self.assertEqual(training_cost.slots(settings), kept, name)

    @pytest.mark.extended
    def test_a_step_exchanges_what_was_planned(self):
        self.check_exchanged({})
        self.check_exchanged({**PROTOTYPES, "stage_prototype_rotation": "mapped"})
        self.check_exchanged({**SHARED, "model": {"exchange": "factors"}})

    @pytest.mark.extended
    def test_a_step_of_other_settings_too(self):
        for changes in (
            {"stage_clusters": 1, "stage_rotations": 1, "stage_sub_clusters": 4},
            {"stage_clusters": 1, "stage_rotations": 1, "model": {"sync_batch_norm": "group"}},
            {"stage_accumulate": 1, "model": {"compute_dtype": "float16"}},
            {"model": {"trunk": "resnet50", "stem": "small"}},
            {"stage_views": {"global_views": 2, "local_views": 1, "local_size": 32}},
            {"stage_clusterings": 2},
            {"stage_loss": "product"},
            {"stage_projection": {"hidden": 12, "dim": 8}},
            {"model": {"exchange": "gradients"}},
            {"model": {"exchange": "factors", "exchange_dtype": "bfloat16"}},
            {**SHARED, "model": {"exchange": "factors", "compute_dtype": "float16"}},
            {"stage_projection": {"hidden": 12, "dim": 8}, "model": {"exchange": "factors"}},
            {**SHARED, "model": {"exchange": "factors", "exchange_dtype": "bfloat16"}},
        ):
            self.check_exchanged(changes)

    def check_exchanged(self, changes):
        planned = experiment(**changes)
        size = training_cost.StageSize.of(planned, planned.stages[1], workers=2)
        for sent, weights in workers.on_cluster(2, count_step, to_yaml(planned)):
            # A worker's share of a sum in bfloat16 is rounded up to whole numbers.
            self.assertAllClose(size.sent_bytes, sent, rtol=0, atol=8, msg=str(changes))
            self.assertEqual(size.weights, weights, changes)

    def test_views_are_counted_as_images_of_their_size(self):
        def size(**views):
            planned = experiment(stage_views=views)
            return training_cost.StageSize.of(planned, planned.stages[1], workers=1)

        one, four = size(), size(global_views=2, local_views=2, local_size=32)
        self.assertEqual(four.activation_bytes, 4 * one.activation_bytes)
        self.assertEqual(four.input_bytes, 4 * one.input_bytes)
        self.assertEqual(four.weights, one.weights)
        small = Views(global_views=2, local_views=4, local_size=48)
        self.assertEqual(small.relative_cost(96), 3)

    def test_the_plan_names_the_views(self):
        views = {"global_views": 2, "local_views": 3, "local_size": 32}
        plan = make_plan(experiment(stage_views=views), ROWS, 1)
        text = "5 views of each image: 2 global, 3 local of 32 pixels"
        self.assertEqual(as_text(plan).count(text), 1)
        self.assertEqual([stage["views"] for stage in as_dict(plan)["stages"]], [1, 5])

    def test_the_cache_is_counted_as_memory_of_the_clustering(self):
        for cache_gb in (0, 2):
            planned = experiment(stage_clustering={"cache_gb": cache_gb})
            problem = training_cost.problem_of(planned, planned.stages[1], 10**9, workers=1)
            self.assertEqual(estimate(problem, P4D).memory.cache, cache_gb * 10**9)

    def test_a_projection_and_prototypes_take_what_they_hold(self):
        planned = experiment(**PROTOTYPES, stage_prototype_rotation="mapped")
        stage = planned.stages[1]
        size = training_cost.StageSize.of(planned, stage, workers=1)
        projection = Projection(features=16, hidden=12, dim=8).with_weights()
        count = lambda variables: sum(v.shape.num_elements() for v in variables)  # noqa: E731
        self.assertEqual(size.projection_weights, count(projection.trainable_variables))
        plain = training_cost.StageSize.of(experiment(), experiment().stages[1], workers=1)
        statistics = count(projection.non_trainable_variables)
        self.assertEqual(size.statistics - plain.statistics, statistics)
        self.assertEqual(size.rotation_map_weights, 4 * 8 * 8)
        self.assertEqual(size.prototype_weights, 2 * 4 * (8 + 1))  # of both clusters
        self.assertEqual(size.head_weights, 8 * (8 + 1))  # V
        problem = training_cost.problem_of(planned, stage, ROWS, workers=1)
        self.assertEqual((problem.dim, problem.raw_dim), (8, 0))

    def test_two_clusterings_take_twice_the_heads_and_the_second_level(self):
        one, two = experiment(), experiment(stage_clusterings=2)
        sizes = [training_cost.StageSize.of(e, e.stages[1], workers=1) for e in (one, two)]
        subs = 8 * 4 * (16 + 1)
        self.assertEqual(sizes[1].head_weights - sizes[0].head_weights, subs)
        levels = [make_plan(e, ROWS, 1).stages[1].clustering.level2 for e in (one, two)]
        self.assertEqual(levels[1].exchanged_bytes, 2 * levels[0].exchanged_bytes)
        self.assertEqual((levels[1].k, levels[1].problems), (4, 4))

    def test_a_worker_holds_the_prototypes_of_the_clusters_that_it_serves(self):
        planned = experiment(**PROTOTYPES)
        sizes = [
            training_cost.StageSize.of(planned, planned.stages[1], n).prototype_weights
            for n in (1, 2, 8)
        ]
        self.assertEqual(sizes, [72, 36, 36])

    def test_the_papers_prototypes_of_128_components_take_41_mb(self):
        stage = "{head: prototypes, projection: {hidden: 2048, dim: 128}, clusters: 1, clustering: "
        stage += "{whiten: false, spherical: true}}"
        paper = load(params_override=["{data: {path: x}, stages: [" + stage + "]}"])
        size = training_cost.StageSize.of(paper, paper.stages[0], workers=1)
        self.assertAlmostEqual(4 * size.prototype_weights / 1e6, 41, delta=0.5)

    def test_alone_nothing_is_exchanged(self):
        size = training_cost.StageSize.of(experiment(), experiment().stages[1], workers=1)
        self.assertEqual((size.sent_bytes, size.factored), (0, ()))

    def test_parts_of_a_batch_need_less_memory(self):
        whole = training_cost.StageSize.of(experiment(), experiment().stages[1], 1)
        parts = experiment(stage_accumulate=2)
        parts = training_cost.StageSize.of(parts, parts.stages[1], 1)
        self.assertEqual(2 * parts.activation_bytes, whole.activation_bytes)


class PlanTest(tf.test.TestCase):
    def test_who_serves_what(self):
        plan = make_plan(experiment(), ROWS, 4)
        rotnet, deeper = plan.stages
        self.assertEqual(rotnet.groups, [((i,), (i,)) for i in range(4)])
        self.assertEqual(deeper.groups, [((i,), (2 * i, 2 * i + 1)) for i in range(4)])
        wide = make_plan(experiment(stage_batch_size=64), ROWS, 8).stages[0]
        self.assertEqual(wide.groups[1], ((2, 3), (1,)))

    @pytest.mark.slow
    def test_steps_and_clusterings_are_those_of_the_run(self):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        data = runs.make_data(folder, ROWS)
        settings = runs.settings(data)
        workdir = os.path.join(folder, "run")
        (result,) = workers.on_cluster(1, runs.train, settings, workdir)
        planned = load(params_override=[repr(settings)])
        plan = make_plan(planned, ROWS, 1)
        self.assertEqual(plan.steps, result["steps"])
        clusterings = sum(s["clusterings"] for s in as_dict(plan)["stages"])
        self.assertEqual(clusterings, result["rounds"])
        self.check_checkpoints(plan, RunDir(workdir).checkpoints)
        self.check_rates(plan, RunDir(workdir))

    def check_checkpoints(self, plan, folder):
        """The last checkpoint holds the numbers that were planned, and some names."""
        newest = os.path.join(folder, sorted(os.listdir(folder))[-1])
        held = sum(os.path.getsize(os.path.join(newest, name)) for name in os.listdir(newest))
        planned = plan.stages[1].size.checkpoint_bytes
        self.assertBetween(held, planned, planned + 200_000)

    def check_rates(self, plan, run):
        """The time is that of the images at the speed that the run has written."""
        rates = rates_of(run)
        self.assertEqual(set(rates.images_per_s), {0, 1})
        images = plan.stages[1].steps * 32
        seconds = images / rates.images_per_s[1]
        self.assertAlmostEqual(seconds_of(1, plan.stages[1], rates), seconds)
        self.assertIn("images a second (measured by the run", as_text(plan, rates))

    def test_without_a_measured_speed_no_time_is_given(self):
        plan = make_plan(experiment(), ROWS, 2)
        self.assertIn("time: unknown", as_text(plan))
        self.assertNotIn("images a second", as_text(plan))
        self.assertIsNone(as_dict(plan)["stages"][0]["train_seconds"])

    def test_more_workers_need_less_scratch_and_not_less_of_the_run_folder(self):
        one, four = (make_plan(experiment(), ROWS, n) for n in (1, 4))
        self.assertGreater(one.scratch_bytes, 2 * four.scratch_bytes)
        self.assertEqual(one.shared_bytes, four.shared_bytes)

    def test_a_bank_takes_what_it_holds_and_only_the_first_clustering_extracts(self):
        changes = {"stage_reassign_every": 1, "stage_epochs": 3}
        plain = make_plan(experiment(**changes), ROWS, 2)
        plan = make_plan(experiment(**changes, stage_features="bank"), ROWS, 2)
        rotnet, stage = plan.stages
        # Twice 16 numbers of float16 a row, and those of a quarter of an epoch with row and order.
        held = 2 * ROWS * 32 + ROWS // 4 * (32 + 16)
        self.assertEqual((rotnet.bank.shared_bytes, stage.bank.shared_bytes), (0, held))
        self.assertEqual(plan.shared_bytes - plain.shared_bytes, held)
        self.assertEqual(plan.scratch_bytes, plain.scratch_bytes)
        self.assertGreaterEqual(plan.host_bytes, plain.host_bytes)
        rates = Rates(extract_per_s=1.0, machine=CORE)
        saved = rates.clusterings_s(plain.stages[1]) - rates.clusterings_s(stage)
        self.assertAllClose(saved, 2 * ROWS)
        found = as_dict(plan)["stages"][1]
        self.assertEqual((found["features"], found["extractions"]), ("bank", 1))
        self.assertEqual(found["bank_bytes"], held)
        self.assertEqual(as_text(plan).count("the first clustering extracts"), 1)
        self.assertNotIn("the first clustering extracts", as_text(plain))

    def test_a_worker_holds_no_more_of_a_bank_for_more_images(self):
        held = [
            make_plan(experiment(stage_features="bank", stage_reassign_every=1), rows, 2)
            .stages[1]
            .bank.host_bytes
            for rows in (10**8, 10**9)
        ]
        self.assertEqual(*held)
        self.assertLess(held[0], 300e6)

    def test_a_bank_that_no_clustering_reads_takes_nothing(self):
        plan = make_plan(experiment(stage_features="bank", stage_reassign_every=3), ROWS, 1)
        self.assertEqual(plan.stages[1].bank, BankSize())

    def test_a_gpu_takes_what_is_not_the_hosts(self):
        host, gpu = (make_plan(experiment(), ROWS, 2, on_gpu) for on_gpu in (False, True))
        self.assertEqual(host.device_bytes, 0)
        self.assertGreater(gpu.device_bytes, 0)
        self.assertGreaterEqual(host.host_bytes, gpu.device_bytes)

    def test_what_does_not_fit_is_refused(self):
        with self.assertRaisesRegex(ConfigError, r"stages\[0\] .*3 workers"):
            make_plan(experiment(), ROWS, 3)


if __name__ == "__main__":
    tf.test.main()
