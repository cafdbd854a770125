import unittest.mock

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from dc_tf import keras
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import ConfigError
from dc_tf.experiment import Optimizer, Stage
from dc_tf.training.optimizers import sgd
from dc_tf.training.optimizers.by_name import check_optimizer, decayed, make_optimizer
from dc_tf.training.step.classifier import Classifier

pytestmark = [pytest.mark.numeric, pytest.mark.tf215]

NAMES = ("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lion", "Nadam")
NAMES += ("RMSprop", "SGD", "LARS")


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
        for optimizer, weight in zip((own, fused), weights, strict=True):
            optimizer.build([weight])
        for rate in (0.1, 0.1, 0.01):
            gradient = tf.constant(random.normal(size=(5, 7)).astype(np.float32))
            for optimizer, weight in zip((own, fused), weights, strict=True):
                optimizer.learning_rate.assign(rate)
                optimizer.apply_gradients([(gradient, weight)])
        self.assertAllClose(*weights, rtol=1e-5, atol=1e-6)
        self.assertNotAllClose(weights[1], start)

    @parameterized.product(nesterov=(False, True), decay=(0.0, 0.3), block_bytes=(1, 56, 1 << 20))
    def test_sgd_on_a_product_is_sgd_on_its_gradient(self, nesterov, decay, block_bytes):
        random = np.random.default_rng(4)
        start, left, right = (
            random.normal(size=shape).astype(np.float32) for shape in ((5, 7), (3, 5), (3, 7))
        )
        optimizers, weights = [], []
        for _ in range(2):
            optimizers.append(make_optimizer(settings(learning_rate=0.1, nesterov=nesterov)))
            weights.append(tf.Variable(start))
            optimizers[-1].build([weights[-1]])
        whole, product = weights

        @tf.function
        def step():
            gradient = tf.matmul(left, right, transpose_a=True) + decay * whole
            optimizers[0].apply_gradients([(gradient, whole)])
            optimizers[1].apply_product(left, right, product, decay)

        with unittest.mock.patch.object(sgd, "_block_bytes", lambda: block_bytes):
            step()
            step()
        self.assertAllClose(product, whole, rtol=1e-5, atol=1e-6)
        self.assertAllClose(optimizers[1].momentums[0], optimizers[0].momentums[0], rtol=1e-5)
        self.assertNotAllClose(product, start)

    @parameterized.product(nesterov=(False, True), decay_filter=("all", "kernels"))
    def test_lars_is_algorithm_1_on_kernels_and_sgd_on_the_rest(self, nesterov, decay_filter):
        random = np.random.default_rng(3)
        weights = [random.normal(size=shape) for shape in ((3, 3, 2, 4), (5, 7), (7,))]
        lars = settings(
            "LARS",
            {"trust_coefficient": 0.02},
            momentum=0.8,
            nesterov=nesterov,
            weight_decay=0.3,
            decay_filter=decay_filter,
        )
        optimizer = make_optimizer(lars)
        variables = [tf.Variable(weight, dtype=tf.float32) for weight in weights]
        optimizer.build(variables)
        velocities = [np.zeros_like(weight) for weight in weights]
        for rate in (2.0, 2.0, 0.5):
            gradients = [random.normal(size=weight.shape) for weight in weights]
            optimizer.learning_rate.assign(rate)
            step = [tf.constant(gradient, tf.float32) for gradient in gradients]
            optimizer.apply_gradients(zip(decayed(step, variables, lars), variables, strict=True))
            for i, (w, g, v) in enumerate(zip(weights, gradients, velocities, strict=True)):
                kernel = w.ndim > 1
                decay = 0.3 if kernel or decay_filter == "all" else 0.0
                norm = np.linalg.norm(w)
                local = 0.02 * norm / (np.linalg.norm(g) + decay * norm) if kernel else 1.0
                change = rate * local * (g + decay * w)
                velocities[i] = 0.8 * v + change
                weights[i] = w - (0.8 * velocities[i] + change if nesterov else velocities[i])
        for variable, weight in zip(variables, weights, strict=True):
            self.assertAllClose(variable, weight, rtol=1e-5, atol=1e-5)

    @parameterized.product(nesterov=(False, True), decay=(0.0, 0.3))
    def test_lars_takes_the_steps_of_tf_models_where_decay_does_not_turn_the_gradient(
        self, nesterov, decay
    ):
        """Theirs has the norm of the decayed gradient, ours the sum of two norms, as the paper."""
        from official.modeling.optimization import lars

        random = np.random.default_rng(5)
        start = [random.normal(size=shape).astype(np.float32) for shape in ((5, 7), (7,))]
        kinds = {"weight_decay": decay, "decay_filter": "kernels", "nesterov": nesterov}
        ours = settings("LARS", {"trust_coefficient": 0.02}, momentum=0.8, **kinds)
        theirs = lars.LARS(
            momentum=0.8,
            weight_decay_rate=decay,
            eeta=0.02,
            nesterov=nesterov,
            exclude_from_weight_decay=["bias"],
        )
        names = "kernel", "bias"
        optimizers = (make_optimizer(ours), theirs)
        both = [
            [tf.Variable(w, name=n) for w, n in zip(start, names, strict=True)] for _ in optimizers
        ]
        optimizers[0].build(both[0])
        for rate in (2.0, 2.0, 0.5)[: 1 if decay else 3]:
            gradients = [tf.constant(random.normal(size=w.shape), tf.float32) for w in start]
            if decay:
                gradients[0] = 0.7 * tf.constant(start[0])
            optimizers[0].learning_rate.assign(rate)
            optimizers[0].apply_gradients(
                zip(decayed(gradients, both[0], ours), both[0], strict=True)
            )
            theirs.learning_rate = rate
            theirs.apply_gradients(zip(gradients, both[1], strict=True))
        for one, other, begun in zip(*both, start, strict=True):
            self.assertAllClose(one, other, rtol=1e-5, atol=1e-6)
            self.assertNotAllClose(one, begun, atol=1e-3)

    def test_lars_moves_a_kernel_of_zeros_as_sgd_does_and_survives_a_gradient_of_zeros(self):
        optimizer = make_optimizer(settings("LARS", learning_rate=0.5, weight_decay=0.0))
        zeros, ones = tf.Variable(tf.zeros([2, 2])), tf.Variable(tf.ones([2, 2]))
        optimizer.build([zeros, ones])
        optimizer.apply_gradients([(tf.ones([2, 2]), zeros), (tf.zeros([2, 2]), ones)])
        self.assertAllClose(zeros, -0.5 * np.ones([2, 2]))
        self.assertAllClose(ones, np.ones([2, 2]))

    def test_lars_does_not_change_with_the_scale_of_the_gradient(self):
        random = np.random.default_rng(4)
        start, gradient = random.normal(size=(2, 5, 7)).astype(np.float32)
        ends = []
        for scale in (1.0, 1e4):
            optimizer = make_optimizer(settings("LARS", weight_decay=0.0))
            weight = tf.Variable(start)
            optimizer.build([weight])
            optimizer.apply_gradients([(scale * gradient, weight)])
            ends.append(weight.numpy())
        self.assertAllClose(*ends, rtol=1e-6)
        self.assertAllClose(
            np.linalg.norm(ends[0] - start), 1e-4 * np.linalg.norm(start), rtol=1e-3
        )

    def test_weight_decay_of_kernels_leaves_norms_and_biases_alone(self):
        shapes = (3, 3, 2, 4), (5, 7), (7,)
        weights = [tf.Variable(tf.fill(shape, 2.0)) for shape in shapes]
        gradients = [tf.ones(shape) for shape in shapes]
        for decay_filter, last in (("all", 2.0), ("kernels", 1.0)):
            changed = settings(weight_decay=0.5, decay_filter=decay_filter)
            found = [float(tf.reduce_mean(g)) for g in decayed(gradients, weights, changed)]
            self.assertAllClose(found, [2.0, 2.0, last])

    def test_a_head_decays_as_the_filter_has_it(self):
        stage = Stage(
            optimizer=settings(learning_rate=1.0, weight_decay=0.5, decay_filter="kernels")
        )
        head = Classifier(stage, 3, 4, Solo())
        head.reset(1)
        kernel, bias = (weight.numpy() for weight in head.weights)
        head.apply([tf.zeros([3, 4]), tf.zeros([4])])
        self.assertAllClose(head.head.kernel, 0.5 * kernel)
        self.assertAllEqual(head.head.bias, bias)

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
            "has eta; LARS takes momentum, nesterov, trust_coefficient.": settings(
                "LARS", {"eta": 1}
            ),
        }
        for message, optimizer in refused.items():
            with self.assertRaisesRegex(ConfigError, message):
                check_optimizer(optimizer)
        for name in NAMES:
            check_optimizer(settings(name))


if __name__ == "__main__":
    tf.test.main()
