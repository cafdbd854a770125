import pytest
import tensorflow as tf

from dc_tf.training.optimizers.loss_scale import GROWTH_STEPS, INITIAL, LossScale, all_finite

pytestmark = [pytest.mark.numeric, pytest.mark.tf215]


class LossScaleTest(tf.test.TestCase):
    def test_it_doubles_after_many_good_steps_and_halves_at_once(self):
        scale = LossScale()
        update = tf.function(scale.update)
        for _ in range(GROWTH_STEPS - 1):
            update(tf.constant(True))
        self.assertEqual(scale.value, INITIAL)
        update(tf.constant(True))
        self.assertEqual(scale.value, 2 * INITIAL)
        for _ in range(GROWTH_STEPS - 1):
            update(tf.constant(True))
        update(tf.constant(False))
        self.assertEqual(scale.value, INITIAL)
        for _ in range(GROWTH_STEPS - 1):  # counted anew
            update(tf.constant(True))
        self.assertEqual(scale.value, INITIAL)

    def test_it_stays_a_positive_finite_number(self):
        scale = LossScale()
        for _ in range(40):
            scale.update(tf.constant(False))
        self.assertEqual(scale.value, 1.0)
        scale.value.assign(2.0**127)
        for _ in range(GROWTH_STEPS):
            scale.update(tf.constant(True))
        self.assertEqual(scale.value, 2.0**127)

    def test_one_number_that_is_not_finite_is_enough(self):
        good, bad = tf.constant([1.0, 2.0]), tf.constant([1.0, float("nan")])
        self.assertTrue(all_finite([good, good]))
        self.assertFalse(all_finite([good, bad]))


if __name__ == "__main__":
    tf.test.main()
