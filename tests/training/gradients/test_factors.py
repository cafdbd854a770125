"""The factors that a tap records give the gradients that TensorFlow computes."""

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from dc_tf.nn.conv import Conv2D
from dc_tf.nn.dense import Dense
from dc_tf.nn.heads import LinearHead
from dc_tf.training.gradients.factors import Factors, KernelTap, Tap

pytestmark = pytest.mark.numeric

ROWS, INPUTS, UNITS = 6, 5, 3


def rows(seed=0, columns=INPUTS):
    return np.random.default_rng(seed).standard_normal((ROWS, columns)).astype(np.float32)


def dense(use_bias=True):
    layer = Dense(UNITS, use_bias=use_bias)
    layer.build([None, INPUTS])
    return layer


def head():
    layer = LinearHead(INPUTS, UNITS)
    layer.reset(np.random.default_rng(1))
    return layer


class TapTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(dense, lambda: dense(use_bias=False), head)
    def test_factors_of_two_calls_give_the_gradients_of_the_layer(self, make):
        layer = make()
        tap = Tap(layer)
        below = tf.Variable(1.0)

        @tf.function
        def both():
            with tap.recording():
                with tf.GradientTape() as tape:
                    first = tf.tanh(layer(below * rows(1)))
                    loss = tf.reduce_sum(first * tf.sin(layer(below * rows(2))))
                gradients = tape.gradient(loss, [below, *tap.weights])
                return gradients, tap.take().gradients(with_bias=len(tap.weights) == 2)

        gradients, products = both()
        self.assertLen(products, len(tap.weights))
        for product, gradient in zip(products, gradients[1:], strict=True):
            self.assertAllClose(product, gradient, rtol=1e-5, atol=1e-6)

    @parameterized.parameters("float32", "mixed_bfloat16")
    @pytest.mark.bfloat16
    def test_a_kernel_s_gradient_of_two_calls_is_that_of_the_layer(self, policy):
        layer = Conv2D(UNITS, 3, dtype=policy)
        layer.build([None, 5, 5, 2])
        tap = KernelTap(layer)
        below = tf.Variable(1.0)
        images = np.random.default_rng(0).standard_normal((2, 4, 5, 5, 2)).astype(np.float32)

        @tf.function
        def both():
            with tap.recording():
                with tf.GradientTape() as tape:
                    first, second = (layer(below * one) for one in images)
                    loss = tf.reduce_sum(tf.cast(first * tf.tanh(second), tf.float32))
                gradients = tape.gradient(loss, [below, layer.kernel])
                return gradients[1], tap.complete, *tap.take().gradients(with_bias=False)

        expected, complete, found = both()
        self.assertTrue(complete)
        self.assertEqual(found.dtype, tf.float32)
        self.assertAllClose(found, expected, rtol=1e-5 if policy == "float32" else 2e-2)
        self.assertIsNone(layer.tap)

    def test_outside_of_recording_a_layer_has_no_tap(self):
        layer = dense()
        tap = Tap(layer)
        with tap.recording():
            self.assertIs(layer.tap, tap)
        self.assertIsNone(layer.tap)

    def test_a_layer_that_no_gradient_reaches_is_named(self):
        layer = dense()
        tap = Tap(layer)
        with tap.recording(), self.assertRaisesRegex(RuntimeError, "kernel"):
            layer(rows())
            tap.take()

    def test_arrays_join_the_rows_of_parts(self):
        arrays = Tap(head()).arrays(count=2, rows=ROWS)
        shapes = [array.element_shape.as_list() for array in arrays]
        self.assertEqual(shapes, [[ROWS, INPUTS], [ROWS, UNITS]])
        self.assertEqual({array.dtype for array in arrays}, {tf.float32})


class FactorsTest(tf.test.TestCase, parameterized.TestCase):
    FACTORS = Factors(tf.constant(rows(3)), tf.constant(rows(4, UNITS)))

    def test_the_squared_norm_is_that_of_kernel_and_bias(self):
        expected = sum(np.sum(np.square(g)) for g in self.FACTORS.gradients(with_bias=True))
        self.assertAllClose(self.FACTORS.squared_norm(), expected, rtol=1e-5)
        self.assertAllEqual(Factors(*map(tf.zeros_like, self.FACTORS)).squared_norm(), 0.0)

    def test_what_is_not_finite_in_a_factor_is_so_in_the_norm(self):
        for broken in (np.inf, np.nan):
            factors = self.FACTORS._replace(slopes=self.FACTORS.slopes * broken)
            self.assertFalse(np.isfinite(factors.squared_norm()))

    def test_scaled_factors_give_scaled_gradients(self):
        scaled = self.FACTORS.scaled(8.0).gradients(with_bias=True)
        for one, other in zip(scaled, self.FACTORS.gradients(with_bias=True), strict=True):
            self.assertAllClose(one, 8 * other)

    def test_float16_is_multiplied_in_float32(self):
        half = Factors(*(tf.cast(300 * factor, tf.float16) for factor in self.FACTORS))
        kernel, _ = half.gradients(with_bias=True)
        exact = half.inputs.numpy().astype(np.float64).T @ half.slopes.numpy().astype(np.float64)
        self.assertGreater(np.abs(exact).max(), np.finfo(np.float16).max)
        self.assertAllClose(kernel, exact, rtol=1e-5)


if __name__ == "__main__":
    tf.test.main()
