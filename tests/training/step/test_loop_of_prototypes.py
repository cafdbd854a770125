"""Whole runs with a projection, prototypes and two clusterings resume exactly."""

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
from dc_tf.clustering.cluster_model import load_clustering
from dc_tf.clustering.kept_clustering import centroids_folder, kept_rounds
from dc_tf.curation.clusters.assign import assign_images
from dc_tf.exporting.saved_model import export_saved_model
from dc_tf.planning.plan import make_plan
from dc_tf.run_dir import RunDir
from dc_tf.training.checkpoint import load_trunk, load_trunk_of_clustering
from dc_tf.training.monitoring.metrics import read
from dc_tf.training.step.projection import projection_of_clustering

# On 128 images an epoch has 4 steps; clusterings are before steps 1 and 9, in a stage of 3 epochs.
STEPS = 12
STAGE = {
    **runs.SETTINGS["stages"][1],
    "clusterings": 2,
    "head": "prototypes",
    "prototype_rotation": "mapped",
    "projection": {"hidden": 16, "dim": 8},
    "clustering": {"iterations": 3, "whiten": False, "spherical": True, "save_every_s": 0},
}


@pytest.mark.slow
class LoopTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.data = runs.make_data(cls.folder)
        # The round's clustering is kept nevertheless.
        cls.settings = runs.settings(cls.data, stages=[STAGE], keep_clusterings=0)
        cls.undisturbed = os.path.join(cls.folder, "undisturbed")
        (cls.result,) = workers.on_cluster(1, runs.train, cls.settings, cls.undisturbed)

    def stopped(self, name, *stops, size=1):
        """A run folder of a run that was given up at each of the stops."""
        workdir = os.path.join(self.folder, name)
        for stop in stops:
            results = workers.on_cluster(size, runs.train, self.settings, workdir, stop)
            self.assertEqual(results, [None] * size)
        return workdir

    @pytest.mark.extended
    def test_a_run_that_is_stopped_and_resumed_ends_like_one_that_is_not(self):
        # In the first round, after a clustering, and in the second round.
        workdir = self.stopped("resumed", ("train", 5), ("clustering", 8), ("train", 11))
        workers.on_cluster(1, runs.train, self.settings, workdir)
        ours, expected = runs.end_state(workdir), runs.end_state(self.undisturbed)
        self.assertEqual(ours.keys(), expected.keys())
        for name, value in expected.items():
            self.assertAllEqual(ours[name], value, name)
        for part in ("projection", "rotation_maps"):
            self.assertTrue(any(f"/{part}/" in name for name in ours), part)
        self.assertFalse(any(name.startswith("head-") for name in ours))

    @pytest.mark.extended
    def test_a_run_continues_on_another_number_of_workers(self):
        workdir = self.stopped("elastic", ("train", 5))
        (result, _) = workers.on_cluster(2, runs.train, self.settings, workdir)
        self.assertEqual(result["steps"], STEPS)
        losses, whole = (
            {m["step"]: m["loss"] for m in read(RunDir(path).metrics) if m["event"] == "train"}
            for path in (workdir, self.undisturbed)
        )
        self.assertEqual(list(losses), list(range(1, STEPS + 1)))
        self.assertAllClose(losses, whole, rtol=0.05)

    def test_only_the_clustering_of_the_round_is_kept_and_works_for_new_images(self):
        run = RunDir(self.undisturbed)
        self.assertEqual(list(kept_rounds(run.clusterings)), [(0, 1)])
        own = Assignments.open(run.clustering(0, 1))
        found = assign_images(self.data, os.path.join(self.folder, "assign"), self.undisturbed)
        self.assertAllEqual(found.cluster, own.cluster)
        self.assertAllEqual(found.sub, own.sub)

    def test_what_is_kept_has_the_bytes_that_were_planned(self):
        run = RunDir(self.undisturbed)
        experiment = experiment_lib.load([run.config])
        planned = make_plan(experiment, 128, 1).stages[0]
        model = load_clustering(run)
        held = sum(os.path.getsize(os.path.join(model.path, n)) for n in os.listdir(model.path))
        kept = planned.kept_clustering_bytes
        self.assertBetween(held, kept, kept + 60_000)
        newest = os.path.join(run.checkpoints, sorted(os.listdir(run.checkpoints))[-1])
        held = sum(os.path.getsize(os.path.join(newest, n)) for n in os.listdir(newest))
        saved = planned.size.checkpoint_bytes
        self.assertBetween(held, saved, saved + 200_000)

    def test_centroids_are_those_of_the_projection_that_is_kept(self):
        run = RunDir(self.undisturbed)
        model = load_clustering(run)
        trunk, experiment = load_trunk_of_clustering(run.path)
        projection = projection_of_clustering(model, trunk, experiment.stages[0])
        self.assertIsNone(model.whitening)
        self.assertEqual(model.description["raw_dim"], 8)
        self.assertNotEmpty(projection.non_trainable_variables)
        for centroids, counts in zip(model.sub_centroids, model.counts, strict=True):
            lengths = np.linalg.norm(centroids, axis=1)
            self.assertAllClose(lengths[counts > 0], np.ones(np.sum(counts > 0)), atol=1e-4)

    def test_lost_centroids_stop_a_round_that_has_begun_with_a_reason(self):
        workdir = os.path.join(self.folder, "lost")
        self.stopped("lost", ("train", 5))
        shutil.rmtree(centroids_folder(RunDir(workdir).clustering(0, 0)))
        with self.assertRaisesRegex(AssertionError, "has no complete clustering"):
            workers.on_cluster(1, runs.train, self.settings, workdir)

    @pytest.mark.extended
    def test_an_export_has_no_projection(self):
        names = {}
        trunks = {"parts": load_trunk(self.undisturbed)[0], "plain": load_trunk(self.plain)[0]}
        for name, trunk in trunks.items():
            output = os.path.join(self.folder, f"export-{name}")
            export_saved_model(trunk, output)
            variables = tf.train.list_variables(os.path.join(output, "variables", "variables"))
            names[name] = {key for key, _ in variables}
        self.assertEqual(names["parts"], names["plain"])

    @functools.cached_property
    def plain(self):
        """A run without any of the parts."""
        return runs.undisturbed(1)[1]

    def test_the_clusterings_of_a_round_differ(self):
        own = Assignments.open(RunDir(self.undisturbed).clustering(0, 1))
        self.assertEqual(own.subs.shape, (128, 2))
        self.assertAllEqual(own.subs[:, 0], own.sub)
        self.assertGreater(np.mean(own.subs[:, 0] != own.subs[:, 1]), 0.1)


if __name__ == "__main__":
    tf.test.main()
