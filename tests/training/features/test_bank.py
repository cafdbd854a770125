"""Runs with a bank of features: what it has, on any number of workers, killed and resumed."""

import functools
import os
import shutil
import tempfile

import numpy as np
import pytest
import runs
import tensorflow as tf
import workers

from dc_tf import experiment as experiment_lib
from dc_tf.clustering.assignments import Assignments
from dc_tf.clustering.store.feature_bank import FeatureBank
from dc_tf.data.input.batch_plan import BatchPlan
from dc_tf.data.input.draws import Draws
from dc_tf.data.storage.manifest import Dataset
from dc_tf.distributed.cluster import connect
from dc_tf.distributed.topology import Topology
from dc_tf.errors import ConfigError, DataError
from dc_tf.experiment import Stage
from dc_tf.nn.trunks import trunk_of
from dc_tf.planning.plan import make_plan
from dc_tf.planning.stages import plan_stages
from dc_tf.run_dir import RunDir
from dc_tf.training.features.bank import StageBank, places
from dc_tf.training.loop import make_sampler
from dc_tf.training.monitoring.metrics import read
from dc_tf.training.step.learner import Learner
from dc_tf.training.step.micro_batches import split

ROWS, DIM = 128, 8
# 4 steps an epoch, and clusterings before steps 1, 5, 9 and 13; no step of the last round is kept.
STAGE = {
    **runs.SETTINGS["stages"][1],
    "features": "bank",
    "epochs": 4,
    "reassign_every": 1,
    "head": "prototypes",
    "projection": {"hidden": 16, "dim": DIM},
    "clustering": {"iterations": 3, "whiten": False, "spherical": True, "store_dtype": "float32"},
}
STEPS = 4


def settings_of(data, stage=(), **changes):
    return runs.settings(data, stages=[{**STAGE, **dict(stage)}], **changes)


def bank_of(workdir, round_index, dim=DIM):
    return FeatureBank(RunDir(workdir).bank(0, round_index), ROWS, dim, np.float32)


def base_of(workdir, round_index, dim=DIM):
    """(ROWS, dim), what a round began with."""
    return bank_of(workdir, round_index, dim).read_base(0, ROWS)


def drawn_in(workdir, settings, round_index):
    """(n,) the rows that the upright images of a round are of, in the order of its steps."""
    experiment = experiment_lib.load(params_override=[repr(settings)])
    (plan,) = plan_stages(experiment, ROWS, 1)
    assignments = Assignments.open(RunDir(workdir).clustering(0, round_index))
    draws = make_sampler(experiment, 0, plan, ROWS, assignments).epoch(round_index, 0)
    return draws.row[draws.rotation == 0]


def folder_bytes(path):
    return sum(os.path.getsize(os.path.join(f, n)) for f, _, names in os.walk(path) for n in names)


def sources_of(workdir):
    """Where the features of each clustering came from."""
    lines = read(RunDir(workdir).metrics)
    return [line["features"] for line in lines if line["event"] == "clustering"]


def train_without_statistics(cluster, settings, workdir, stop_at):
    """`runs.train` whose batch norms and JPEGs are the same in training and in extraction."""
    from unittest import mock

    from dc_tf.data.input import augment
    from dc_tf.nn.batch_norm import BatchNorm

    def call(self, x, training=False):
        del training
        return self._normalize_by_running(x)

    def decode(encoded):
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)

    with mock.patch.object(BatchNorm, "call", call), mock.patch.object(augment, "decode", decode):
        return runs.train(cluster, settings, workdir, stop_at)


@pytest.mark.slow
class BankTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.data = runs.make_data(cls.folder)
        cls.settings = settings_of(cls.data)

    def trained(self, name, *stops, settings=None, size=1, train=runs.train):
        """A run folder, given up at each of the stops; None trains to the end."""
        workdir = os.path.join(self.folder, name)
        for stop in stops:
            workers.on_cluster(size, train, settings or self.settings, workdir, stop)
        return workdir

    @functools.cached_property
    def undisturbed(self):
        return self.trained("undisturbed", None)

    @pytest.mark.extended
    def test_only_the_first_clustering_extracts(self):
        self.assertEqual(sources_of(self.undisturbed), ["extract", *["bank"] * 3])

    @pytest.mark.extended
    def test_nothing_of_the_bank_is_left_at_the_end(self):
        self.assertEmpty(os.listdir(RunDir(self.undisturbed).banks))

    def test_rows_that_were_not_drawn_keep_their_features_and_others_get_newer_ones(self):
        # The epoch that ends with step 4 is complete, and round 0 still there.
        workdir = self.trained("rows", ("train", STEPS))
        before = base_of(workdir, 0)
        self.trained("rows", ("clustering", STEPS))
        self.assertFalse(os.path.exists(RunDir(workdir).bank(0, 0)))
        after = base_of(workdir, 1)
        drawn = np.unique(drawn_in(workdir, self.settings, 0))
        others = np.setdiff1d(np.arange(ROWS), drawn)
        self.assertNotEmpty(others)
        self.assertAllEqual(after[others], before[others])
        self.assertTrue(np.all(np.any(after[drawn] != before[drawn], axis=1)))
        self.assertAllClose(np.linalg.norm(after, axis=1), np.ones(ROWS), atol=1e-5)

    @pytest.mark.extended
    def test_a_run_that_is_killed_and_resumed_has_the_same_bank_and_ends_the_same(self):
        # Between checkpoints of the second epoch, and after a clustering.
        workdir = self.trained("killed", ("train", 5), ("clustering", 2 * STEPS), None)
        self.assertEqual(sources_of(workdir), ["extract", *["bank"] * 3])
        ours, expected = runs.end_state(workdir), runs.end_state(self.undisturbed)
        self.assertEqual(ours.keys(), expected.keys())
        for name, value in expected.items():
            self.assertAllEqual(ours[name], value, name)

    def test_two_workers_have_the_bank_of_one(self):
        # So small a rate leaves the features as they are.
        slow = settings_of(self.data, {"optimizer": {"learning_rate": 1e-9}})
        stop = "train", STEPS + 1
        one = self.trained("one", stop, settings=slow)
        two = self.trained("two", stop, settings=slow, size=2)
        self.assertEqual(bank_of(two, 1).base_size(), 2)
        self.assertAllClose(base_of(two, 1), base_of(one, 1), atol=1e-3)

    @pytest.mark.extended
    def test_the_bank_takes_what_is_planned(self):
        experiment = experiment_lib.load(params_override=[repr(self.settings)])
        planned = make_plan(experiment, ROWS, 1).stages[0].bank.shared_bytes
        workdir = self.trained("planned", ("train", STEPS - 1), ("clustering", STEPS))
        base = ROWS * DIM * 4
        self.assertBetween(folder_bytes(RunDir(workdir).bank(0, 1)), base, base + 200)
        self.assertLess(2 * base, planned)
        self.trained("planned", ("train", 2 * STEPS))
        self.assertLess(folder_bytes(RunDir(workdir).banks), planned)

    @pytest.mark.extended
    def test_a_run_continues_on_another_number_of_workers(self):
        slow = settings_of(self.data, {"optimizer": {"learning_rate": 1e-9}})
        stop = "train", 2 * STEPS + 1
        one = self.trained("of-one", stop, settings=slow)
        other = self.trained("elastic", ("train", 7), settings=slow)  # saved at step 6
        self.trained("elastic", stop, settings=slow, size=2)
        self.assertEqual(sources_of(other), ["extract", "bank", "bank"])
        self.assertAllClose(base_of(other, 2), base_of(one, 2), atol=1e-3)

    def test_the_bank_has_what_extraction_would_find(self):
        # Whole images, and nothing in the network that differs between training and inference.
        whole = {"min_crop_area": 1.0, "flip": False, "resize": 32}
        for name, stage, dim in (
            ("projected", {}, DIM),
            ("trunk", {"head": "linear", "projection": {}}, 16),
        ):
            same = {"rotations": 1, "views": {"global_views": 2}}
            settings = settings_of(
                self.data, {**same, "optimizer": {"learning_rate": 1e-30}, **stage}
            )
            settings["data"] |= whole
            settings["model"] = {**settings["model"], "dropout": False}
            patched = train_without_statistics
            workdir = self.trained(name, ("train", STEPS), settings=settings, train=patched)
            extracted = base_of(workdir, 0, dim)
            nothing = np.zeros_like(extracted)
            bank_of(workdir, 0, dim).write_base(0, 1, [(0, nothing)])
            self.trained(name, ("clustering", STEPS), settings=settings, train=patched)
            drawn = np.unique(drawn_in(workdir, settings, 0))
            self.assertGreater(len(drawn), ROWS / 4)
            expected = nothing
            expected[drawn] = extracted[drawn]
            # An untrained network's features differ little, so the rounding is compared with that.
            spread = extracted.std(axis=0).mean()
            self.assertAllClose(base_of(workdir, 1, dim), expected, atol=1e-2 * spread)

    @pytest.mark.extended
    def test_a_bank_that_is_lost_is_extracted_again(self):
        workdir = self.trained("lost", ("train", 6))
        shutil.rmtree(RunDir(workdir).bank(0, 1))
        self.trained("lost", None)
        self.assertEqual(sources_of(workdir), ["extract", "bank", "extract", "bank"])

    @pytest.mark.extended
    def test_corrupt_rows_have_the_features_of_those_that_replace_them(self):
        folder = tempfile.mkdtemp(dir=self.folder)
        data = runs.make_data(folder)
        dataset = Dataset.open(data)
        (shard,), ((offset, length, _),) = dataset.locate([10])
        with open(dataset.shard_path(shard), "r+b") as file:
            file.seek(offset + length // 2)
            file.write(b"\0\1\2\3")
        settings = settings_of(data)
        settings["data"]["max_bad_share"] = 0.05
        workdir = self.trained("corrupt", ("train", STEPS), settings=settings)
        first = base_of(workdir, 0)
        self.assertAllClose(first[10], first[11], atol=1e-5)
        self.trained("corrupt", None, settings=settings)
        self.assertEqual(sources_of(workdir), ["extract", *["bank"] * 3])


class PartsTest(tf.test.TestCase):
    """`StageBank` alone, fed with numbers that say which image of which step they are of."""

    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def stage_bank(self, cluster, stage, rows):
        plan = BatchPlan(stage.clusters, stage.rotations, 16, Topology(1, stage.super_classes))
        return plan, StageBank(RunDir(self.folder), cluster, plan, stage, 0, rows, 2)

    def fed(self, plan, bank, steps, first=0):
        """Adds steps of a bank; returns {row: features of its last upright draw}."""
        random, expected = np.random.default_rng(3), {}
        count = steps * plan.per_worker
        rotation = np.tile(np.repeat(np.arange(plan.rotations), plan.per_super_class), steps)
        draws = Draws(random.integers(0, 40, count), rotation, *[np.zeros(count, np.int32)] * 3)
        bank.start_epoch(0, draws, 0, first)
        features = random.standard_normal((steps, plan.per_worker, 2)).astype(np.float32)
        for part in features:
            bank.add(tf.constant(part))
        for row, turns, vector in zip(draws.row, rotation, features.reshape(-1, 2), strict=True):
            if not turns:
                expected[int(row)] = vector
        return expected

    def of_round_zero(self):
        return FeatureBank(RunDir(self.folder).bank(0, 0), 40, 2, np.float32)

    def check(self, expected):
        bank = self.of_round_zero()
        bank.write_base(0, 1, [(0, np.zeros((40, 2), np.float32))])
        ((_, found),) = bank.merged(bank.parts(), range(40))
        for row in range(40):
            self.assertAllEqual(found[row], expected.get(row, np.zeros(2)))

    def stage(self, **changes):
        stage = Stage(clusters=1, rotations=2, sub_clusters=4, epochs=3, features="bank")
        return stage.replace(reassign_every=1, clustering={"store_dtype": "float32"}, **changes)

    def test_upright_images_count_and_of_a_row_the_last_one(self):
        plan, bank = self.stage_bank(connect(), self.stage(), 40)
        expected = self.fed(plan, bank, 5)
        bank.flush()
        bank.flush()  # nothing more
        expected |= self.fed(plan, bank, 3, first=5)
        bank.flush()
        self.assertEqual(
            [(p.first, p.last) for p in self.of_round_zero().parts()], [(0, 5), (5, 8)]
        )
        self.check(expected)

    def test_the_next_epoch_begins_with_what_the_last_one_left(self):
        plan, bank = self.stage_bank(connect(), self.stage(), 40)
        expected = self.fed(plan, bank, 2)
        expected |= self.fed(plan, bank, 2, first=2)
        bank.flush()
        self.check(expected)

    def test_features_that_are_not_finite_name_their_row(self):
        plan, bank = self.stage_bank(connect(), self.stage(), 40)
        count = plan.per_worker
        draws = Draws(np.arange(count) + 7, *[np.zeros(count, np.int32)] * 4)
        bank.start_epoch(0, draws, 0, 0)
        bank.add(tf.constant(np.where(np.arange(count)[:, None] == 3, np.nan, 1) * np.ones((1, 2))))
        with self.assertRaisesRegex(DataError, "row 10 are not finite"):
            bank.flush()

    def test_nothing_is_kept_where_no_clustering_follows(self):
        plan, bank = self.stage_bank(connect(), self.stage(epochs=1), 40)
        self.fed(plan, bank, 2)
        bank.flush()
        self.assertFalse(os.path.exists(RunDir(self.folder).banks))

    def test_places_of_all_workers_are_those_of_the_global_batch(self):
        for size in (1, 2, 4, 8):
            plan = BatchPlan(2, 2, 32, Topology(size, 4))
            found = np.concatenate([places(plan, rank) for rank in range(size)])
            self.assertAllEqual(np.sort(found), np.arange(32), size)
        self.assertAllEqual(places(BatchPlan(1, 2, 8, Topology(1, 2)), 0), np.arange(8))
        self.assertAllEqual(places(BatchPlan(1, 2, 8, Topology(4, 2)), 3), [6, 7])


class StepTest(tf.test.TestCase):
    def learner(self, **stage):
        cluster = connect()
        settings = settings_of("/data", {**stage, "features": "bank"})
        experiment = experiment_lib.load(params_override=[repr(settings)])
        (plan,) = plan_stages(experiment, ROWS, 1)
        with cluster.strategy.scope():
            trunk = trunk_of(experiment.model).built_at_resolution()
        learner = Learner(cluster, plan, trunk, experiment.stages[0], experiment.model)
        learner.start_round(0)
        return learner

    def batch(self, views=()):
        random = np.random.default_rng(4)
        return {
            "image": tf.constant(random.random((32, *views, 32, 32, 3), np.float32)),
            "super_id": tf.repeat(tf.range(8), 4),
            "sub_id": tf.zeros(32, tf.int32),
        }

    @pytest.mark.slow
    def test_features_of_a_step_are_those_of_its_images_before_it(self):
        for stage, dim in (({}, DIM), ({"head": "linear", "projection": {}}, 16)):
            learner = self.learner(**stage, accumulate=2)
            batch = self.batch()
            # Each half has the batch statistics of its own.
            halves = split(batch["image"], 2)
            mask = learner._dropout_masks(tf.constant(5))
            masks = split(mask[:, 0], 2)
            expected = []
            for images, kept in zip(halves, masks, strict=True):
                fc7 = learner.trunk(images, training=True, dropout_mask=kept)["fc7"]
                expected.append(fc7)
                if learner.projection:
                    expected[-1] = learner.projection(tf.nn.relu(fc7), training=True)
            expected = np.stack(expected, 1).reshape(32, dim)
            _, features = learner.step_and_features(batch, tf.constant(5))
            self.assertAllClose(features, expected, rtol=1e-3, atol=1e-4)

    @pytest.mark.slow
    def test_a_step_is_the_same_with_and_without_its_features(self):
        inputs = self.batch(), tf.constant(5)
        learner, other = self.learner(), self.learner()
        self.assertAllEqual(learner.step(*inputs), other.step_and_features(*inputs)[0])


class SettingTest(tf.test.TestCase):
    def load(self, **stage):
        return experiment_lib.load(
            params_override=[repr({"data": {"path": "/d"}, "stages": [stage]})]
        )

    def test_wrong_values_are_refused_with_what_works(self):
        with self.assertRaisesRegex(ConfigError, "features is 'banks'; use extract or bank"):
            self.load(features="banks")
        with self.assertRaisesRegex(ConfigError, "features is 'bank'; use extract in a stage with"):
            self.load(features="bank", clusters=1, sub_clusters=0)

    def test_the_paper_extracts_for_each_clustering(self):
        stage = self.load(epochs=9).stages[0]
        self.assertEqual((stage.features, stage.extractions), ("extract", 3))
        self.assertEqual(self.load(epochs=9, features="bank").stages[0].extractions, 1)

    def test_a_run_is_not_resumed_with_the_other_kind(self):
        changed = experiment_lib.differences(self.load(), self.load(features="bank"))
        self.assertEqual(changed, ["stages[0].features: extract, bank"])


if __name__ == "__main__":
    tf.test.main()
