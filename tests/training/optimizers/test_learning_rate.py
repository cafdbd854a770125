"""Rates of every step, against formulas written out for whole stages."""

import numpy as np
import pytest
import tensorflow as tf

from dc_tf.experiment import Optimizer, Stage
from dc_tf.training.optimizers.learning_rate import epoch_rates, learning_rate

pytestmark = pytest.mark.tf215

EPOCHS, STEPS = 5, 8


def rates(epochs=EPOCHS, steps=STEPS, **settings):
    """(epochs, steps) of a whole stage."""
    stage = Stage(epochs=epochs, optimizer=Optimizer(**settings))
    return np.array([epoch_rates(stage, epoch, 0, steps) for epoch in range(epochs)])


class LearningRateTest(tf.test.TestCase):
    def test_by_default_it_is_constant_in_each_epoch_and_drops_at_its_epochs(self):
        found = rates(learning_rate=1.0, drops=(2, 4), drop_factor=0.1)
        expected = np.repeat([[1.0], [1.0], [1.0 * 0.1], [1.0 * 0.1], [1.0 * 0.1**2]], STEPS, 1)
        self.assertAllEqual(found, expected)
        self.assertAllEqual(rates(), np.full([EPOCHS, STEPS], 0.1))

    def test_cosine_is_half_a_period_over_the_steps_of_the_stage(self):
        found = rates(schedule="cosine", learning_rate=0.4, final_learning_rate=0.1).ravel()
        t = np.arange(EPOCHS * STEPS)
        expected = 0.1 + 0.3 * 0.5 * (1 + np.cos(np.pi * t / len(t)))
        self.assertAllClose(found, expected, rtol=1e-12)
        self.assertEqual(found[0], 0.4)
        self.assertAllClose(found[20], 0.25)

    def test_the_warm_up_is_linear_and_ends_at_the_full_rate(self):
        found = rates(learning_rate=0.5, warmup_epochs=1.5, drops=(3,)).ravel()
        expected = np.full(EPOCHS * STEPS, 0.5)
        expected[:12] = 0.5 * np.arange(1, 13) / 12
        expected[3 * STEPS :] = 0.5 * 0.1
        self.assertAllClose(found, expected, rtol=1e-12)

    def test_cosine_begins_where_the_warm_up_ends(self):
        found = rates(schedule="cosine", learning_rate=2.0, warmup_epochs=2.0).ravel()
        t = np.arange(3 * STEPS)
        expected = np.concatenate(
            [2.0 * np.arange(1, 17) / 16, 1 + np.cos(np.pi * t / (3 * STEPS))]
        )
        self.assertAllClose(found, expected, rtol=1e-12)
        self.assertGreater(found[-1], 0)

    def test_a_warm_up_shorter_than_a_step_changes_nothing(self):
        self.assertAllEqual(rates(warmup_epochs=0.01), rates())

    def test_an_epoch_that_is_resumed_has_the_rates_that_were_left(self):
        stage = Stage(optimizer=Optimizer(schedule="cosine", warmup_epochs=3.5))
        whole = epoch_rates(stage, 3, 0, STEPS)
        self.assertEqual(epoch_rates(stage, 3, 5, STEPS), whole[5:])
        self.assertEqual(learning_rate(stage, 3, 7, STEPS), whole[7])


if __name__ == "__main__":
    tf.test.main()
