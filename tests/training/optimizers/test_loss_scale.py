import pytest
import tensorflow as tf

from dc_tf.training.optimizers.loss_scale import GROWTH_STEPS, INITIAL, LossScale, all_finite

pytestmark = [pytest.mark.numeric, pytest.mark.tf215]


class LossScaleTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.scale = LossScale()
        self.updates = tf.function(self.update)

    def update(self, good, times):
        for _ in tf.range(times):
            self.scale.update(good)

    def steps(self, good, times=1):
        self.updates(tf.constant(good), tf.constant(times))

    def test_it_doubles_after_many_good_steps_and_halves_at_once(self):
        self.steps(True, GROWTH_STEPS - 1)
        self.assertEqual(self.scale.value, INITIAL)
        self.steps(True)
        self.assertEqual(self.scale.value, 2 * INITIAL)
        self.steps(True, GROWTH_STEPS - 1)
        self.steps(False)
        self.assertEqual(self.scale.value, INITIAL)
        self.steps(True, GROWTH_STEPS - 1)  # counted anew
        self.assertEqual(self.scale.value, INITIAL)

    def test_it_stays_a_positive_finite_number(self):
        self.steps(False, 40)
        self.assertEqual(self.scale.value, 1.0)
        self.scale.value.assign(2.0**127)
        self.steps(True, GROWTH_STEPS)
        self.assertEqual(self.scale.value, 2.0**127)

    def test_one_number_that_is_not_finite_is_enough(self):
        good, bad = tf.constant([1.0, 2.0]), tf.constant([1.0, float("nan")])
        self.assertTrue(all_finite([good, good]))
        self.assertFalse(all_finite([good, bad]))


if __name__ == "__main__":
    tf.test.main()
