import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from dc_tf import keras
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import ConfigError
from dc_tf.experiment import Optimizer, Stage
from dc_tf.training.classifier import Classifier
from dc_tf.training.optimizers import check_optimizer, make_optimizer

pytestmark = pytest.mark.numeric

NAMES = ("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lion", "Nadam")
NAMES += ("RMSprop", "SGD")


def settings(name="SGD", options=None, **changes):
    optimizer = Optimizer(name=name, **changes)
    optimizer.options.override(options or {}, is_strict=False)
    return optimizer


class OptimizersTest(tf.test.TestCase, parameterized.TestCase):
    def test_the_default_is_the_papers(self):
        sgd = make_optimizer(Optimizer())
        self.assertIsInstance(sgd, keras.optimizers.SGD)
        found = float(sgd.learning_rate), sgd.momentum, sgd.nesterov
        self.assertAllClose(found, (0.1, 0.9, False))

    @parameterized.parameters((0.9, False), (0.9, True), (0.0, False))
    def test_sgd_in_one_pass_is_keras_own(self, momentum, nesterov):
        random = np.random.default_rng(1)
        start = random.normal(size=(5, 7)).astype(np.float32)
        own = keras.optimizers.SGD(0.1, momentum=momentum, nesterov=nesterov)
        fused = make_optimizer(settings(learning_rate=0.1, momentum=momentum, nesterov=nesterov))
        weights = [tf.Variable(start), tf.Variable(start)]
        for optimizer, weight in zip((own, fused), weights):
            optimizer.build([weight])
        for rate in (0.1, 0.1, 0.01):
            gradient = tf.constant(random.normal(size=(5, 7)).astype(np.float32))
            for optimizer, weight in zip((own, fused), weights):
                optimizer.learning_rate.assign(rate)
                optimizer.apply_gradients([(gradient, weight)])
        self.assertAllClose(*weights, rtol=1e-5, atol=1e-6)
        self.assertNotAllClose(weights[1], start)

    def test_options_reach_the_optimizer(self):
        adam = make_optimizer(settings("Adam", {"beta_1": 0.5, "global_clipnorm": 2.0}))
        self.assertEqual((adam.beta_1, adam.global_clipnorm), (0.5, 2.0))

    @parameterized.parameters(*NAMES)
    def test_a_head_that_is_drawn_anew_is_trained_as_if_it_were_the_first(self, name):
        stage = Stage(optimizer=settings(name, learning_rate=0.01))
        used, new = (Classifier(stage, 3, 4, Solo()) for _ in range(2))
        gradients = [np.float32(np.arange(12).reshape(3, 4)), np.ones(4, np.float32)]
        used.reset(1)
        for _ in range(3):
            used.apply(gradients)
        used.optimizer.learning_rate.assign(0.02)
        new.optimizer.learning_rate.assign(0.02)
        for head in (used, new):
            head.reset(2)
            before = head.head.kernel.numpy()
            head.apply(gradients)
            self.assertNotAllEqual(head.head.kernel, before)
        self.assertAllEqual(used.head.kernel, new.head.kernel)

    def test_what_keras_does_not_know_is_refused(self):
        refused = {
            "'Adamm'; use one of Adadelta, .*, Adam, .*SGD": settings("Adamm"),
            "'LossScaleOptimizer'; use": settings("LossScaleOptimizer"),
            "has beta_3; Adam takes beta_1, beta_2": settings("Adam", {"beta_3": 1}),
            "has learning_rate; Adam takes": settings("Adam", {"learning_rate": 1}),
        }
        for message, optimizer in refused.items():
            with self.assertRaisesRegex(ConfigError, message):
                check_optimizer(optimizer)
        for name in NAMES:
            check_optimizer(settings(name))


if __name__ == "__main__":
    tf.test.main()
