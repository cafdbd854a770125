"""What the inner loop reports of its steps."""

import itertools
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from dc_tf.atomic import read_json
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import DataError
from dc_tf.run_dir import RunDir
from dc_tf.training import trainer
from dc_tf.training.checkpoint import Position
from dc_tf.training.step.step_metrics import NAMES, mean_metrics
from dc_tf.training.trainer import EpochTrainer, StageTrainer

pytestmark = pytest.mark.tf215

CLOCK = [0.0]


class Steps:
    """A learner and cluster of one worker whose steps take some seconds of CLOCK."""

    rank, size, world = 0, 1, Solo()
    loss_scale = None

    def __init__(self, seconds):
        self._seconds = seconds
        self.rates_set = []
        self.rates_used = []

    def set_learning_rate(self, rate):
        self.rates_set.append(rate)

    def step(self, batch, step_seed, stop):
        CLOCK[0] += self._seconds
        self.rates_used.append(self.rates_set[-1])
        return tf.one_hot(NAMES.index("images"), len(NAMES))


def images_every(seconds):
    while True:
        CLOCK[0] += seconds
        yield {}


def train(step_s, image_s, calls=2):
    steps = Steps(step_s)
    inner = EpochTrainer(steps, steps, tf.Variable(0, dtype=tf.int64))
    inner.start_epoch(images_every(image_s), itertools.repeat(0.1))
    return [inner.train(tf.constant(4)) for _ in range(calls)]


class TrainerTest(tf.test.TestCase):
    def warnings(self, *args, after_s=0.0):
        with mock.patch.object(trainer, "_INPUT_BOUND_AFTER_S", after_s):
            with (
                mock.patch.object(logging, "warning") as warning,
                mock.patch.object(trainer.time, "monotonic", lambda: CLOCK[0]),
            ):
                values = train(*args)
        return [call.args[0] % call.args[1:] for call in warning.call_args_list], values

    def test_training_that_waits_for_images_says_so_once(self):
        (warning,), values = self.warnings(0.0, 0.02)
        self.assertRegex(warning, r"input-bound: worker 0 waits for images 100 %.*`threads`")
        self.assertAllInRange([f["input_wait"] for f in values], 0.5, 1.0)

    def test_other_training_does_not_nor_one_that_has_just_begun(self):
        self.assertEqual(self.warnings(0.02, 0.0)[0], [])
        self.assertEqual(self.warnings(0.0, 0.02, after_s=60.0)[0], [])

    def test_each_step_has_its_rate_and_metrics_have_that_of_the_last_one(self):
        steps = Steps(0.0)
        inner = EpochTrainer(steps, steps, tf.Variable(0, dtype=tf.int64))
        rates = [0.1, 0.2, 0.3, 0.3, 0.3, 0.2]
        inner.start_epoch(images_every(0.0), rates)
        found = [inner.train(tf.constant(count))["learning_rate"] for count in (2, 1, 3)]
        self.assertEqual(found, [0.2, 0.3, 0.2])
        self.assertEqual(steps.rates_used, rates)
        self.assertEqual(steps.rates_set, [0.1, 0.2, 0.3, 0.2])  # only where it changes

    def test_values_that_end_training_are_errors(self):
        stage = StageTrainer.__new__(StageTrainer)
        stage.position = Position(global_step=7)
        stage._cluster = mock.Mock(is_chief=True)
        stage._run = RunDir(self.get_temp_dir())
        stage._epoch_fields = {"learning_rate": 0.1}
        fine = {"loss": 1.0, "gradient_norm": 2.0, "head_gradient_norm": 3.0}
        stage._require_finite(fine)
        stage._require_finite(fine | {"skipped_steps": 2, "loss_scale": 8.0})
        for output, message in (
            ({"loss": float("nan")}, "the loss is nan at step 7; .*learning rate"),
            ({"gradient_norm": float("inf")}, "the gradient norm is inf at step 7"),
            ({"skipped_steps": 1, "loss_scale": 1.0}, "at step 7 overflow float16 .*bfloat16"),
        ):
            with self.assertRaisesRegex(DataError, message):
                stage._require_finite(fine | output)
        kept = read_json(stage._run.failed_step)
        self.assertEqual((kept["global_step"], kept["learning_rate"]), (7, 0.1))
        self.assertEqual(kept["gradient_norm"], float("inf"))

    def test_means_are_over_images_and_norms_over_the_steps_taken(self):
        sums = dict.fromkeys(NAMES, 0.0)
        sums |= {"images": 8, "loss": 24, "super_loss": 16, "sub_loss": 8, "super_hits": 2}
        sums |= {"steps": 2, "trunk_gradient": 50, "head_gradient": 18}
        values = mean_metrics(np.float32(list(sums.values())))
        expected = {"loss": 3, "super_loss": 2, "sub_loss": 1, "super_accuracy": 0.25}
        expected |= {"gradient_norm": 5, "head_gradient_norm": 3, "sub_accuracy": 0}
        for name, value in expected.items():
            self.assertAllClose(values[name], value, msg=name)


if __name__ == "__main__":
    tf.test.main()
