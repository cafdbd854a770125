"""A convolution with its batch norm in inference: the same as the two layers."""

import numpy as np
import pytest
import tensorflow as tf

from dc_tf import keras
from dc_tf.nn.batch_norm import BatchNorm
from dc_tf.nn.conv import Conv2D, normalized_conv

pytestmark = [pytest.mark.numeric, pytest.mark.tf215]


class Block(keras.layers.Layer):
    """As the blocks of trunks call it."""

    def __init__(self, dtype="float32", **settings):
        super().__init__(dtype="float32", autocast=False)
        policy = dtype if dtype == "float32" else f"mixed_{dtype}"
        self.conv = Conv2D(12, 3, dtype=policy, **settings)
        self.norm = BatchNorm(dtype=policy)

    def call(self, x, training=False) -> tf.Tensor:
        return normalized_conv(self.conv, self.norm, x, training)


def used_block(x, **settings):
    """A block whose running statistics, scale and shift are those of a trained network."""
    block = Block(**settings)
    block(x)
    random = np.random.default_rng(1)
    block.norm.gamma.assign(random.uniform(0.5, 2, 12))
    block.norm.beta.assign(random.normal(size=12))
    for _ in range(30):
        block(x, training=True)
    return block


def images():
    return tf.constant(np.random.default_rng(0).normal(size=(4, 9, 9, 5)), tf.float32)


def exact(block, x):
    """The layers one after the other, in float64 by NumPy."""
    conv, norm = block.conv, block.norm
    maps = tf.nn.conv2d(
        tf.cast(x, tf.float64),
        tf.cast(conv.kernel, tf.float64),
        conv.strides,
        conv.padding.upper(),
    ).numpy()
    maps += conv.bias.numpy() if conv.use_bias else 0
    deviation = np.sqrt(norm.moving_variance.numpy().astype(np.float64) + 1e-5)
    return (maps - norm.moving_mean) / deviation * norm.gamma + norm.beta


class NormalizedConvTest(tf.test.TestCase):
    def test_inference_equals_the_two_layers(self):
        x = images()
        for settings in ({}, {"use_bias": False}, {"padding": "same"}, {"strides": 2}):
            with self.subTest(settings=settings):
                block = used_block(x, **settings)
                self.assertAllClose(block(x), exact(block, x), rtol=2e-6, atol=2e-6)

    def test_gradients_are_those_of_the_two_layers(self):
        x = images()
        block = used_block(x)
        weights = block.trainable_variables
        self.assertLen(weights, 4)
        with tf.GradientTape(persistent=True) as tape:
            ours = tf.reduce_sum(tf.sin(block(x)))
            both = tf.reduce_sum(tf.sin(block.norm(block.conv(x), training=False)))
        for mine, theirs in zip(
            tape.gradient(ours, weights), tape.gradient(both, weights), strict=True
        ):
            self.assertAllClose(mine, theirs, rtol=1e-4, atol=1e-4)

    @pytest.mark.bfloat16
    def test_in_bfloat16_it_is_nearer_to_the_exact_maps_than_two_layers(self):
        self._nearer_than_two_layers("bfloat16")

    def test_in_float16_it_is_nearer_to_the_exact_maps_than_two_layers(self):
        self._nearer_than_two_layers("float16")

    def _nearer_than_two_layers(self, dtype):
        x = images()
        block = used_block(x, dtype=dtype)
        # A common offset costs the digits of what is rounded before batch norm.
        block.conv.bias.assign_add(tf.fill([12], 30.0))
        block.norm.moving_mean.assign_add(tf.fill([12], 30.0))
        maps = exact(block, x)
        one, two = (
            np.abs(tf.cast(y, tf.float64).numpy() - maps).mean()
            for y in (block(x), block.norm(block.conv(x), training=False))
        )
        self.assertEqual(block(x).dtype, dtype)
        self.assertLess(one, 0.5 * two)

    @pytest.mark.bfloat16
    def test_weights_stay_float32_and_are_read_at_each_call(self):
        x = images()
        block = used_block(x, dtype="bfloat16")
        run = tf.function(block)
        before = run(x)
        self.assertEqual({str(w.dtype) for w in block.conv.weights}, {"<dtype: 'float32'>"})
        block.norm.beta.assign_add(tf.ones(12))
        self.assertAllClose(run(x) - before, tf.ones_like(before), atol=0.05)

    def test_inference_has_no_batch_norm(self):
        x = images()
        block = used_block(x)
        graph = tf.function(block).get_concrete_function(x, training=False).graph
        kinds = {op.type for op in graph.get_operations()}
        self.assertIn("Conv2D", kinds)
        self.assertFalse([kind for kind in kinds if kind.startswith("FusedBatchNorm")])


if __name__ == "__main__":
    tf.test.main()
