"""Statistics, gradients and running averages, fused, synchronised and written out in NumPy."""

import numpy as np
import pytest
import tensorflow as tf
import workers

from dc_tf.nn.batch_norm import EPSILON, BatchNorm

pytestmark = [pytest.mark.numeric, pytest.mark.tf215]

SHAPE = (8, 3, 5, 4)


def data():
    random = np.random.default_rng(2)
    x = (3 + 2 * random.standard_normal(SHAPE)).astype(np.float32)
    return x, random.standard_normal(SHAPE).astype(np.float32)


def run(all_sum, x, weight):
    """(y, dx, dgamma, dbeta, running mean, running variance) for the loss sum(y * weight)."""
    layer = BatchNorm(all_sum)
    layer.build(x.shape)
    layer.gamma.assign([0.5, 1.0, 2.0, -1.0])
    layer.beta.assign([0.0, 1.0, -1.0, 0.5])
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        loss = tf.reduce_sum(y * weight)
    gradients = tape.gradient(loss, [x, layer.gamma, layer.beta])
    return [t.numpy() for t in (y, *gradients, layer.moving_mean, layer.moving_variance)]


def shared(comm, x, weight):
    part = slice(comm.rank * len(x) // comm.size, (comm.rank + 1) * len(x) // comm.size)
    return run(comm.all_sum, x[part], weight[part])


class BatchNormTest(tf.test.TestCase):
    def test_both_forms_equal_numpy(self):
        x, weight = data()
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        n = x.size / x.shape[-1]
        gamma, beta = np.float32([0.5, 1, 2, -1]), np.float32([0, 1, -1, 0.5])
        expected = gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta
        for all_sum in (None, tf.identity):
            y, _, _, _, running_mean, running_variance = run(all_sum, x, weight)
            self.assertAllClose(y, expected, atol=1e-4)
            self.assertAllClose(running_mean, 0.1 * mean, rtol=1e-4)
            # Unbiased, as in PyTorch.
            self.assertAllClose(running_variance, 0.9 + 0.1 * variance * n / (n - 1), rtol=1e-4)

    def test_the_explicit_gradient_equals_the_fused_kernels(self):
        for ours, fused in zip(run(tf.identity, *data()), run(None, *data()), strict=True):
            self.assertAllClose(ours, fused, rtol=1e-3, atol=1e-4)

    def test_two_workers_with_half_the_images_each_equal_one_with_all(self):
        x, weight = data()
        alone = run(None, x, weight)
        halves = workers.on_workers(2, shared, x, weight)
        for index in (0, 1):  # y and dx, image by image
            joined = np.concatenate([half[index] for half in halves])
            self.assertAllClose(joined, alone[index], rtol=1e-3, atol=1e-4)
        for index in (2, 3):  # the step sums gradients of weights
            self.assertAllClose(sum(h[index] for h in halves), alone[index], rtol=1e-3, atol=1e-3)
        for index in (4, 5):  # running statistics, the same on both
            for half in halves:
                self.assertAllClose(half[index], alone[index], rtol=1e-4)

    def test_inference_uses_the_running_statistics(self):
        layer = BatchNorm()
        layer.build(SHAPE)
        layer.moving_mean.assign([1.0, 2.0, 3.0, 4.0])
        layer.moving_variance.assign([4.0] * 4)
        y = layer(tf.constant(data()[0]), training=False)
        self.assertAllClose(y, (data()[0] - [1, 2, 3, 4]) / np.sqrt(4 + EPSILON), atol=1e-4)


if __name__ == "__main__":
    tf.test.main()
