"""Batch norms that were never trained get statistics of the images before the first clustering."""

import os
import shutil
import tempfile

import numpy as np
import pytest
import runs
import tensorflow as tf
import workers

from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.distributed.cluster import connect
from dc_tf.experiment import Model, Stage, load
from dc_tf.nn.projection import clustered_features
from dc_tf.planning.stages import plan_stages
from dc_tf.training.features.calibrate import calibrate, needs_calibration
from dc_tf.training.step.learner import Learner

STAGE = {
    **runs.SETTINGS["stages"][1],
    "clusters": 1,
    "rotations": 1,
    "projection": {"hidden": 16, "dim": 8},
}
RESNET = {"trunk": "resnet18", "stem": "small", "width": 1 / 16, "resolution": 32}


def learner_of(cluster, data, stage=(), model=()):
    """(learner, reader, experiment) of a stage that has not begun."""
    from dc_tf.nn.trunks import trunk_of

    settings = runs.settings(
        data, stages=[{**STAGE, **dict(stage)}], model={**RESNET, **dict(model)}
    )
    experiment = load(params_override=[repr(settings)])
    reader = RowReader(Dataset.open(data))
    (plan,) = plan_stages(experiment, reader.dataset.rows, cluster.size)
    with cluster.strategy.scope():
        trunk = trunk_of(experiment.model, seed=1).built_at_resolution()
    learner = Learner(cluster, plan, trunk, experiment.stages[0], experiment.model)
    return learner, reader, experiment


def statistics_of(learner):
    """{trunk, projection: its running means and variances, each an array}."""
    return {
        name: [variable.numpy() for variable in part.non_trainable_variables]
        for name, part in (("trunk", learner.trunk), ("projection", learner.projection))
    }


def calibrated(cluster, data, model=(), trunk=True):
    """The statistics after `calibrate` on this worker."""
    learner, *rest = learner_of(cluster, data, model=model)
    calibrate(learner, *rest, 0, cluster, trunk=trunk)
    return statistics_of(learner)


class CalibrateTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.data = runs.make_data(cls.folder)
        cls.cluster = connect()

    def cosine(self, learner):
        """Mean cosine of the clustered features of different images."""
        images = np.random.default_rng(0).random((32, 32, 32, 3), np.float32)
        images *= np.linspace(0.2, 1, 32)[:, None, None, None]
        x = clustered_features(learner.trunk, learner.projection)(images).numpy()
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        return (x @ x.T)[np.triu_indices(32, 1)].mean()

    @pytest.mark.slow
    def test_features_of_an_untrained_network_differ_afterwards(self):
        for model in ({}, {"trunk": "vgg16", "stem": "imagenet"}):
            learner, *rest = learner_of(self.cluster, self.data, model=model)
            self.assertGreater(self.cosine(learner), 0.98)
            weights = [w.numpy() for w in learner.shared_weights]
            calibrate(learner, *rest, 0, self.cluster, trunk=True)
            self.assertLess(self.cosine(learner), 0.9)
            for before, weight in zip(weights, learner.shared_weights, strict=True):
                self.assertAllEqual(weight, before)

    @pytest.mark.slow
    def test_the_statistics_are_the_mean_of_those_of_the_batches(self):
        learner, reader, experiment = learner_of(self.cluster, self.data)
        seen = []
        norm = learner.trunk.conv1.norm
        track = norm._track

        def tracking(running, batch):
            if running is norm.moving_mean:
                tf.py_function(lambda value: seen.append(value.numpy()), [batch], [])
            track(running, batch)

        norm._track = tracking
        calibrate(learner, reader, experiment, 0, self.cluster, trunk=True)
        self.assertLen(seen, 4)  # 128 images in batches of 32
        weights = 0.9 ** np.arange(3, -1, -1)
        expected = np.average(seen, axis=0, weights=weights)
        self.assertAllClose(norm.moving_mean, expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.slow
    def test_a_trained_trunk_keeps_its_statistics(self):
        new, *_ = learner_of(self.cluster, self.data)
        before, after = statistics_of(new), calibrated(self.cluster, self.data, trunk=False)
        for value, untouched in zip(after["trunk"], before["trunk"], strict=True):
            self.assertAllEqual(value, untouched)
        self.assertNotAllClose(after["projection"][0], before["projection"][0])

    @pytest.mark.extended
    def test_two_workers_find_the_statistics_of_one(self):
        (one,) = workers.on_cluster(1, calibrated, self.data)
        for model in ({}, {"sync_batch_norm": "off"}):
            found = workers.on_cluster(2, calibrated, self.data, model)
            for part in one:
                for mine, other, alone in zip(
                    found[0][part], found[1][part], one[part], strict=True
                ):
                    self.assertAllEqual(mine, other)
                    if not model:
                        self.assertAllClose(mine, alone, rtol=1e-3, atol=1e-4)

    @pytest.mark.extended
    def test_a_run_that_is_killed_before_its_first_checkpoint_ends_the_same(self):
        settings = runs.settings(self.data, stages=[STAGE], model=RESNET)
        ends = []
        for name, stops in (("whole", ()), ("killed", [("clustering", 0), ("train", 2)])):
            workdir = os.path.join(self.folder, name)
            for stop in (*stops, None):
                workers.on_cluster(1, runs.train, settings, workdir, stop)
            ends.append(runs.end_state(workdir))
        self.assertEqual(ends[0].keys(), ends[1].keys())
        for name, value in ends[0].items():
            self.assertAllEqual(ends[1][name], value, name)


class NeedTest(tf.test.TestCase):
    def test_the_papers_network_is_left_as_it_is(self):
        plain, resnet = Model(), Model(trunk="resnet50")
        self.assertFalse(needs_calibration(Stage(), plain))
        self.assertTrue(needs_calibration(Stage(), resnet))
        self.assertTrue(needs_calibration(Stage(projection={"dim": 8}), plain))
        self.assertTrue(needs_calibration(Stage(features="bank"), plain))
        unclustered = Stage(clusters=1, sub_clusters=0)
        self.assertFalse(needs_calibration(unclustered, resnet))


if __name__ == "__main__":
    tf.test.main()
