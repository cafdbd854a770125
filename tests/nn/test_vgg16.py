"""The network has the shapes, weights and endpoints of VGG-16-BN, at any size."""

import numpy as np
import pytest
import tensorflow as tf

from dc_tf.nn.vgg16 import CONV_LAYERS, LAYERS, VGG16, dropout_mask, final_map_size

pytestmark = pytest.mark.numeric


def small(**kwargs):
    return VGG16(width=1 / 16, resolution=32, fc=16, **kwargs).built_at_resolution()


class VGG16Test(tf.test.TestCase):
    @pytest.mark.merge
    @pytest.mark.slow
    def test_the_full_network_has_the_papers_sizes(self):
        self.assertEqual(final_map_size(224), 7)
        trunk = VGG16()
        out = tf.function(trunk).get_concrete_function(tf.TensorSpec([1, 224, 224, 3])).outputs
        del out
        shapes = [tuple(v.shape) for v in trunk.trainable_variables]
        self.assertIn((25088, 4096), shapes)
        self.assertIn((3, 3, 2, 64), shapes)
        convolutions = 9 * (2 * 64 + 64 * 64 + 64 * 128 + 128**2 + 128 * 256 + 2 * 256**2)
        convolutions += 9 * (256 * 512 + 5 * 512**2)
        channels = 2 * 64 + 2 * 128 + 3 * 256 + 6 * 512
        fc = 25088 * 4096 + 4096 + 4096 * 4096 + 4096
        trainable = sum(np.prod(shape) for shape in shapes)
        self.assertEqual(trainable, convolutions + 3 * channels + fc)  # bias, scale and offset

    def test_maps_halve_after_each_block_and_features_are_named(self):
        out = small()(tf.zeros([2, 32, 32, 3]))
        self.assertEqual(tuple(out), LAYERS)
        sides = [out[name].shape[1] for name in CONV_LAYERS]
        self.assertEqual(sides, [34, 34, 17, 17, 8, 8, 8, 4, 4, 4, 2, 2, 2])
        self.assertEqual(out["fc7"].shape, (2, 16))

    def test_fc7_is_before_relu_and_all_others_after(self):
        images = tf.random.stateless_uniform([8, 32, 32, 3], [1, 2])
        out = small(seed=1)(images)
        self.assertLess(tf.reduce_min(out["fc7"]), 0)
        for name in LAYERS[:-1]:
            self.assertGreaterEqual(tf.reduce_min(out[name]), 0)

    def test_the_seed_decides_the_weights(self):
        images = tf.random.stateless_uniform([2, 32, 32, 3], [1, 2])
        one, same, other = (small(seed=seed)(images)["fc7"] for seed in (1, 1, 2))
        self.assertAllEqual(one, same)
        self.assertNotAllClose(one, other)

    def test_convolutions_start_by_fan_out_and_linear_layers_by_fan_in(self):
        trunk = VGG16(width=1.0, resolution=32, fc=256).built_at_resolution()
        kernel = trunk.blocks[3][1].conv.kernel
        self.assertAllClose(np.std(kernel), np.sqrt(2 / (9 * 512)), rtol=0.02)
        self.assertAllClose(np.max(np.abs(trunk.fc7.kernel)), 1 / 16, rtol=0.01)

    def test_bfloat16_products_stay_near_float32(self):
        images = tf.random.stateless_uniform([4, 32, 32, 3], [1, 2])
        exact, rough = small(seed=1), small(seed=1, compute_dtype="bfloat16")
        self.assertEqual({v.dtype for v in rough.trainable_variables}, {tf.float32})
        a, b = exact(images)["conv13"], rough(images)["conv13"]
        self.assertEqual(b.dtype, tf.float32)
        self.assertLess(tf.norm(a - b) / tf.norm(a), 0.1)

    def test_dropout_masks_half_keep_the_mean_and_follow_the_seed(self):
        mask = dropout_mask([200, 200], [3, 4])
        self.assertAllEqual(np.unique(mask), [0, 2])
        self.assertAllClose(np.mean(mask), 1.0, atol=0.02)
        self.assertAllEqual(mask, dropout_mask([200, 200], [3, 4]))

    def test_raw_rgb_has_three_input_channels(self):
        self.assertEqual(small(sobel=False).blocks[0][0].conv.kernel.shape[2], 3)


if __name__ == "__main__":
    tf.test.main()
