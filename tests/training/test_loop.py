"""Whole runs: a resumed one ends like an undisturbed one, more workers change only the speed."""

import functools
import os
import pathlib
import shutil
import sys
import tempfile
from unittest import mock

import disks
import numpy as np
import pytest
import runs
import tensorflow as tf
import workers

from dc_tf import experiment as experiment_lib
from dc_tf.atomic import read_json
from dc_tf.clustering.assignments import Assignments
from dc_tf.clustering.cluster_model import load_clustering
from dc_tf.clustering.kept_clustering import kept_rounds
from dc_tf.errors import ConfigError, DataError
from dc_tf.exporting.saved_model import export_saved_model
from dc_tf.planning.plan import make_plan
from dc_tf.planning.stages import plan_stages
from dc_tf.run_dir import RunDir
from dc_tf.training.checkpoint import (
    complete_checkpoints,
    load_trunk,
    load_trunk_of_clustering,
    new_trunk,
    read_trunk,
)
from dc_tf.training.init_from import check_initial, initial_weights
from dc_tf.training.monitoring.metrics import read
from dc_tf.training.preflight import check_start

# On 128 images the stages of runs.SETTINGS take 2 * 4 and 3 * 4 steps; clusterings are at 8, 16.
STEPS = 20


class LoopTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.settings, cls.undisturbed = runs.undisturbed(1)
        cls.result = read_json(RunDir(cls.undisturbed).result)

    @classmethod
    @functools.cache
    def stopped_on_two_workers(cls):
        """A run that was given up after step 11, the last checkpoint being that of step 9."""
        workdir = os.path.join(cls.folder, "stopped-on-two")
        # All stop where only the chief would speak, so stop on a step that every worker logs.
        workers.on_cluster(2, runs.train_until, cls.settings, workdir, 11)
        return workdir

    def assert_same_end(self, workdir, other):
        ours, expected = runs.end_state(workdir), runs.end_state(other)
        self.assertEqual(ours.keys(), expected.keys())
        for name, value in expected.items():
            self.assertAllEqual(ours[name], value, name)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_a_run_stopped_in_each_phase_and_resumed_equals_the_one_that_was_not_stopped(self):
        self.check_resumed(
            [
                ("train", 5),  # inside RotNet's second epoch, after the checkpoint at 3
                ("level", 1),  # inside the first clustering, after an iteration that was saved
                ("train", 10),  # inside the first round
            ]
        )

    @pytest.mark.extended
    def test_a_run_stopped_anywhere_and_resumed_equals_the_one_that_was_not_stopped(self):
        self.check_resumed(
            [
                ("train", 2),  # before the first checkpoint
                ("train", 5),
                ("level", 1),
                ("level", 2),
                ("clustering", 8),  # the clusters are written but not reported
                ("train", 10),
                ("train", 16),  # the last step of that round
                ("clustering", 16),  # the second clustering
                ("train", STEPS),  # the very last step
            ]
        )

    def check_resumed(self, stops):
        workdir = os.path.join(self.folder, f"resumed-{len(stops)}")
        rotnet, deeper = self.settings["stages"]
        deeper = {**deeper, "clustering": {**deeper["clustering"], "save_every_s": 0}}
        settings = {**self.settings, "stages": [rotnet, deeper]}
        for stop in stops:
            work = _stop_in_clustering if stop[0] == "level" else runs.train
            (result,) = workers.on_cluster(1, work, settings, workdir, stop)
            self.assertIsNone(result)
        (result,) = workers.on_cluster(1, runs.train, settings, workdir)
        self.assert_same_end(workdir, self.undisturbed)
        self.assertEqual(result["steps"], STEPS)
        lines = read(RunDir(workdir).metrics)
        train = [line["step"] for line in lines if line["event"] == "train"]
        self.assertEqual(train, list(range(1, STEPS + 1)))
        clusterings = [line["round"] for line in lines if line["event"] == "clustering"]
        self.assertEqual(clusterings, [0, 1])
        for name in ("loss", "rotation_accuracy"):
            self.assertAllClose(result[name], self.result[name])

    @pytest.mark.extended
    def test_a_schedule_of_steps_resumes_at_its_step(self):
        rotnet = self.settings["stages"][0]
        optimizer = {"name": "LARS", "learning_rate": 2.0, "decay_filter": "kernels"}
        optimizer |= {"schedule": "cosine", "warmup_epochs": 0.75, "final_learning_rate": 0.5}
        settings = {**self.settings, "stages": [{**rotnet, "optimizer": optimizer}]}
        whole, parts = (os.path.join(self.folder, name) for name in ("cosine", "cosine-parts"))
        workers.on_cluster(1, runs.train, settings, whole)
        for stop in (("train", 2), ("train", 5), None):
            workers.on_cluster(1, runs.train, settings, parts, stop)
        self.assert_same_end(parts, whole)
        falling = 0.5 + 0.75 * (1 + np.cos(np.pi * np.arange(5) / 5))
        for path in (whole, parts):
            rates = [line["learning_rate"] for line in read(RunDir(path).metrics)]
            self.assertAllClose(rates, [2 / 3, 4 / 3, 2.0, *falling], rtol=1e-12)

    @pytest.mark.extended
    def test_two_workers_resume_as_well(self):
        whole, parts = (os.path.join(self.folder, name) for name in ("whole-2", "parts-2"))
        workers.on_cluster(2, runs.train, self.settings, whole)
        shutil.copytree(self.stopped_on_two_workers(), parts)
        workers.on_cluster(2, runs.train, self.settings, parts)
        self.assert_same_end(parts, whole)

    @pytest.mark.extended
    def test_two_workers_that_differ_in_statistics_resume_as_well(self):
        """With each worker's own batch norm and optimizers and losses other than the paper's."""
        rotnet, deeper = self.settings["stages"]
        adam = {"name": "Adam", "learning_rate": 1e-3, "options": {"epsilon": 1e-3}}
        settings = {
            **self.settings,
            "model": {
                **self.settings["model"],
                "compute_dtype": "float16",
                "sync_batch_norm": "off",
            },
            "checkpoint_every": 5,
            "stages": [
                {**rotnet, "accumulate": 2, "epochs": 1},
                {**deeper, "loss": "product", "optimizer": adam, "epochs": 2, "reassign_every": 1},
            ],
        }
        whole, parts = (os.path.join(self.folder, name) for name in ("whole-off", "parts-off"))
        workers.on_cluster(2, runs.train, settings, whole)
        workers.on_cluster(2, runs.train_until, settings, parts, 7)  # two steps after a checkpoint
        workers.on_cluster(2, runs.train, settings, parts)
        self.assert_same_end(parts, whole)
        last = read(RunDir(whole).metrics)[-1]
        self.assertEqual((last["skipped_steps"], last["loss_scale"]), (0, 2.0**15))
        self.assertAllInRange([last["gradient_norm"], last["head_gradient_norm"]], 1e-6, 1e3)

    @pytest.mark.slow
    def test_clusters_and_losses_of_a_round_are_the_same_on_1_and_2_workers(self):
        self.check_round(2)

    @pytest.mark.extended
    def test_clusters_and_losses_of_a_round_are_the_same_on_1_and_4_workers(self):
        self.check_round(4)

    def check_round(self, size):
        (losses, clusters), (others, other_clusters) = self.one_round(1), self.one_round(size)
        # Features differ by rounding, so a row on a border may change sides.
        self.assertGreater(np.mean(other_clusters == clusters), 0.98)
        self.assertAllClose(others, losses, rtol=1e-2)
        self.assertAllClose(others[0], losses[0], rtol=1e-4)

    @classmethod
    @functools.cache
    def one_round(cls, size):
        """(losses of the steps, (n,) clusters) of one round on so many workers."""
        stages = [{**runs.SETTINGS["stages"][1], "epochs": 1}]
        workdir = os.path.join(cls.folder, f"round-on-{size}")
        settings = {**cls.settings, "stages": stages}
        results = workers.on_cluster(size, runs.train, settings, workdir)
        assert [r and r["steps"] for r in results] == [4] + [None] * (size - 1), results
        lines = read(RunDir(workdir).metrics)
        losses = [line["loss"] for line in lines if line["event"] == "train"]
        return losses, Assignments.open(RunDir(workdir).clustering(0, 0)).flat()

    @pytest.mark.slow
    def test_a_run_of_two_workers_continues_on_one(self):
        self.check_continued()

    @pytest.mark.extended
    def test_a_run_continues_on_another_number_of_workers(self):
        self.check_continued((4, 15))

    def check_continued(self, *between):
        """A run of two workers, continued by others up to steps, and by one to its end."""
        workdir = os.path.join(self.folder, f"elastic-{len(between)}")
        shutil.copytree(self.stopped_on_two_workers(), workdir)
        for size, step in between:
            workers.on_cluster(size, runs.train_until, self.settings, workdir, step)
        (result,) = workers.on_cluster(1, runs.train, self.settings, workdir)
        self.assertEqual(result["steps"], STEPS)
        losses, whole = (
            {m["step"]: m["loss"] for m in read(RunDir(path).metrics) if m["event"] == "train"}
            for path in (workdir, self.undisturbed)
        )
        self.assertEqual(list(losses), list(range(1, STEPS + 1)))
        # The same images, crops and labels at every step, but for rows on a border of clusters.
        self.assertAllClose(losses, whole, rtol=0.05)

    def test_metrics_say_what_happened(self):
        lines = read(RunDir(self.undisturbed).metrics)
        train = [line for line in lines if line["event"] == "train"]
        clusterings = [line for line in lines if line["event"] == "clustering"]
        self.assertEqual([line["step"] for line in clusterings], [8, 16])
        for name in ("loss", "super_loss", "sub_loss", "learning_rate", "images_per_second"):
            self.assertIn(name, train[0])
        for line in train:
            self.assertAllInRange([line["input_wait"], line["rotation_accuracy"]], 0.0, 1.0)
        self.assertAllInRange([clusterings[1]["nmi_previous"], clusterings[1]["nmi_labels"]], 0, 1)
        for name in ("largest_share", "empty", "entropy"):
            self.assertIn(f"sub_clusters/{name}", clusterings[0])
        self.assertEqual(self.result["rounds"], 2)

    def test_tensorboard_has_the_metrics_of_training(self):
        found = {}
        for path in pathlib.Path(RunDir(self.undisturbed).summaries).rglob("events*"):
            for event in tf.compat.v1.train.summary_iterator(str(path)):
                for value in event.summary.value:
                    if value.metadata.plugin_data.plugin_name == "scalars":
                        found[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
        lines = [m for m in read(RunDir(self.undisturbed).metrics) if m["event"] == "train"]
        self.assertLen(lines, STEPS)
        for line in lines:
            for name in line.keys() - {"event", "step", "stage", "epoch"}:
                self.assertEqual(found[name, line["step"]], np.float32(line[name]), name)

    def test_the_newest_clusterings_are_kept_with_their_network(self):
        run = RunDir(self.undisturbed)
        self.assertEqual(list(kept_rounds(run.clusterings)), [(1, 0), (1, 1)])
        model = load_clustering(run)
        self.assertEqual((model.stage, model.round, model.step, model.rows), (1, 1, 16, 128))
        self.assertEqual(model.description["stage_name"], "deepercluster")
        trunk, experiment = load_trunk_of_clustering(run.path)
        expected = new_trunk(experiment).built_at_resolution()
        read_trunk(os.path.join(run.checkpoints, f"step-{model.step:010d}"), expected)
        for ours, theirs in zip(trunk.get_weights(), expected.get_weights(), strict=True):
            self.assertAllEqual(ours, theirs)
        planned = make_plan(experiment, 128, 1).stages[1].kept_clustering_bytes
        held = sum(os.path.getsize(os.path.join(model.path, n)) for n in os.listdir(model.path))
        self.assertBetween(held, planned, planned + 60_000)

    @pytest.mark.extended
    def test_a_resumed_run_continues_keeping_and_removes_older_ones(self):
        settings, run = {**self.settings, "keep_clusterings": 1}, os.path.join(self.folder, "keep")
        for stop, kept in ((("clustering", 8), [(1, 0)]), (("clustering", 16), [(1, 1)])):
            workers.on_cluster(1, runs.train, settings, run, stop)
            self.assertEqual(list(kept_rounds(RunDir(run).clusterings)), kept)
        (result,) = workers.on_cluster(1, runs.train, settings, run)
        self.assertEqual(result["steps"], STEPS)
        self.assertEqual(list(kept_rounds(RunDir(run).clusterings)), [(1, 1)])
        Assignments.open(RunDir(run).clustering(1, 0))

    def test_features_do_not_stay_on_disk_and_a_finished_run_has_nothing_to_do(self):
        workdir = os.path.join(self.folder, "again")
        shutil.copytree(self.undisturbed, workdir)
        (again,) = workers.on_cluster(1, runs.train, self.settings, workdir)
        self.assertEqual(again, {**self.result, "workdir": workdir})
        left = [files for _, _, files in os.walk(os.path.join(workdir, "features"))]
        self.assertEqual(sum(left, []), [])

    @pytest.mark.extended
    def test_a_run_starts_from_the_trunk_of_another_and_stages_keep_theirs(self):
        workdir = os.path.join(self.folder, "from-another")
        stages = [{**runs.SETTINGS["stages"][1], "epochs": 1, "name": "next"}]
        stages[0]["optimizer"] = {"learning_rate": 1e-6}
        settings = {**self.settings, "stages": stages, "init_from": self.undisturbed}
        workers.on_cluster(1, runs.train, settings, workdir)
        weights = [
            load_trunk(folder)[0].trainable_weights for folder in (workdir, self.undisturbed)
        ]
        for ours, theirs in zip(*weights, strict=True):
            self.assertAllClose(ours, theirs, atol=1e-4)
        after_rotnet, experiment = load_trunk(self.undisturbed, "rotnet")
        for source in self.undisturbed, self.exported(after_rotnet):
            stage = "rotnet" if source == self.undisturbed else ""
            settings |= {"init_from": source, "init_stage": stage}
            start = self.load(settings)
            check_initial(start)
            for ours, theirs in zip(
                initial_weights(start), after_rotnet.get_weights(), strict=True
            ):
                self.assertAllEqual(ours, theirs)
        self.assertEqual(experiment.stages[0].name, "rotnet")
        self.assertNotAllClose(after_rotnet.trainable_weights[0], weights[1][0])
        with self.assertRaisesRegex(ConfigError, "no stage 'x'; its stages are .*rotnet"):
            load_trunk(self.undisturbed, "x")

    def exported(self, trunk, sobel="layer"):
        path = os.path.join(self.folder, f"exported-{sobel}")
        export_saved_model(trunk, path, sobel=sobel)
        return path

    def load(self, settings):
        return experiment_lib.load(params_override=[repr(settings)])

    @pytest.mark.merge
    @pytest.mark.slow
    def test_a_start_that_cannot_be_is_refused(self):
        trunk, _ = load_trunk(self.undisturbed)
        folded = self.exported(trunk, "folded")
        model = {**self.settings["model"], "fc": 8}
        for changes, message in (
            ({"init_stage": "rotnet"}, "set init_from"),
            ({"init_from": folded}, "folded into .*--sobel=layer"),
            ({"init_from": folded, "init_stage": "rotnet"}, "an export, which has no stages"),
            ({"init_from": self.undisturbed, "init_stage": "x"}, "its stages are .*rotnet"),
            (
                {"init_from": self.undisturbed, "model": model},
                "model.fc = 16, this experiment has 8",
            ),
        ):
            with self.assertRaisesRegex(ConfigError, message):
                check_initial(self.load({**self.settings, **changes}))

    @pytest.mark.merge
    @pytest.mark.slow
    def test_a_checkpoint_that_was_cut_short_gives_way_to_the_one_before(self):
        workdir = os.path.join(self.folder, "cut")
        shutil.copytree(self.undisturbed, workdir)
        *_, before, newest = complete_checkpoints(RunDir(workdir).checkpoints)
        (data,) = pathlib.Path(newest).glob("shared.data*")
        os.truncate(data, data.stat().st_size // 2)
        self.assertEqual(complete_checkpoints(RunDir(workdir).checkpoints)[-1], before)
        workers.on_cluster(1, runs.train, self.settings, workdir)
        self.assert_same_end(workdir, self.undisturbed)

    @pytest.mark.extended
    def test_on_a_disk_that_cannot_rename_folders_a_kill_amid_a_checkpoint_costs_that_one(self):
        workdir = os.path.join(self.folder, "bucket")
        for files in (3, 8, None):
            workers.on_cluster(1, _train_on_a_bucket, self.settings, workdir, files)
        self.assert_same_end(workdir, self.undisturbed)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(self):
        workdir = os.path.join(self.folder, "nan")
        stages = [{**runs.SETTINGS["stages"][0], "optimizer": {"learning_rate": 1e30}}]
        settings = {**self.settings, "stages": stages, "checkpoint_every": 1}
        ((kind, message),) = workers.on_cluster(1, _failure, settings, workdir)
        self.assertEqual(kind, DataError.__name__)
        self.assertRegex(message, r"(loss|norm) is (nan|inf) at step \d+")
        kept = read_json(RunDir(workdir).failed_step)
        self.assertEqual((kept["stage"], kept["learning_rate"]), (0, 1e30))
        for value in runs.end_state(workdir).values():
            if np.issubdtype(value.dtype, np.floating):
                self.assertAllInRange(np.isfinite(value).astype(int), 1, 1)


def _train_on_a_bucket(cluster, settings, workdir, files):
    try:
        with disks.without_renaming_folders(files):
            runs.train(cluster, settings, workdir)
    except disks.Interrupted:
        pass


class PlanTest(tf.test.TestCase):
    def load(self, **changes):
        return experiment_lib.load(params_override=[repr(runs.settings("/data", **changes))])

    def test_a_worker_count_or_data_set_that_cannot_work_is_refused_by_stage(self):
        with self.assertRaisesRegex(ConfigError, r"stages\[0\] \(rotnet\): 3 workers"):
            plan_stages(self.load(), rows=1000, workers=3)
        with self.assertRaisesRegex(ConfigError, r"at least 8 images .* has 5"):
            plan_stages(self.load(), rows=5, workers=1)

    def test_a_backend_that_is_not_installed_is_refused_before_the_start(self):
        stages = [{**runs.SETTINGS["stages"][1], "clustering": {"backend": "faiss"}}]
        with mock.patch.dict(sys.modules, {"faiss": None}):
            with self.assertRaisesRegex(ConfigError, "faiss.*not installed"):
                check_start(self.load(stages=stages), rows=1000, workers=1)

    def test_an_optimizer_that_keras_does_not_know_is_refused_before_the_start(self):
        stages = [{**runs.SETTINGS["stages"][1], "optimizer": {"name": "Sdg"}}]
        with self.assertRaisesRegex(ConfigError, r"stages\[0\]\.optimizer\.name is 'Sdg'.*SGD"):
            check_start(self.load(stages=stages), rows=1000, workers=1)

    def test_a_batch_that_does_not_split_into_parts_is_refused(self):
        stages = [{**runs.SETTINGS["stages"][0], "accumulate": 3}]
        with self.assertRaisesRegex(ConfigError, r"stages\[0\]\.accumulate is 3, .* 8 images"):
            plan_stages(self.load(stages=stages), rows=1000, workers=1)

    def test_xla_is_refused_where_batch_norm_is_over_several_workers(self):
        def plan(workers, sync):
            model = {**runs.SETTINGS["model"], "xla": True, "sync_batch_norm": sync}
            plan_stages(self.load(model=model), rows=1000, workers=workers)

        plan(1, "world")
        plan(4, "off")
        plan(2, "group")
        for workers_, sync in ((2, "world"), (8, "group")):
            with self.assertRaisesRegex(ConfigError, "over 2 workers, .*sync_batch_norm to off"):
                plan(workers_, sync)


def _stop_in_clustering(cluster, settings, workdir, stop):
    """Gives up in the second iteration at a level of k-means, ("level", number)."""
    from dc_tf.training import reassign

    update = reassign._LevelProgress.update

    def give_up(self, rows, level, **values):
        if level == stop[1] and values.get("iteration") == 1:
            raise runs.Stopped
        update(self, rows, level, **values)

    reassign._LevelProgress.update = give_up
    try:
        return runs.train(cluster, settings, workdir)
    finally:
        reassign._LevelProgress.update = update


def _failure(cluster, settings, workdir):
    try:
        runs.train(cluster, settings, workdir)
    except Exception as error:
        return type(error).__name__, str(error)


if __name__ == "__main__":
    tf.test.main()
