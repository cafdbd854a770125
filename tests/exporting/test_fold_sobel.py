import numpy as np
import pytest
import tensorflow as tf

from dc_tf.errors import ConfigError
from dc_tf.exporting.fold_sobel import fold, fold_kernel
from dc_tf.exporting.weights import copy_weights, named_weights
from dc_tf.nn.trunks import make_trunk
from dc_tf.nn.vgg16 import LAYERS, VGG16

pytestmark = pytest.mark.numeric

RESOLUTION = 40


def trained_like(seed=0, **settings):
    """A small network whose weights differ from the initial ones, at the same scale."""
    settings = dict(width=1 / 16, resolution=RESOLUTION, fc=12) | settings
    trunk = VGG16(**settings, seed=seed).built_at_resolution()
    random = np.random.default_rng(seed)
    for weights in named_weights(trunk).values():
        for name, variable in weights.items():
            if name in ("bias", "beta", "moving_mean"):
                variable.assign(0.1 * random.standard_normal(variable.shape))
            if name in ("gamma", "moving_variance"):
                variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return trunk


def images(n=3, size=RESOLUTION, seed=0):
    return np.random.default_rng(seed).random((n, size, size, 3), np.float32)


class FoldSobelTest(tf.test.TestCase):
    def test_the_folded_network_equals_the_unfolded_one_on_every_pixel_of_every_layer(self):
        trunk = trained_like()
        folded = fold(trunk)
        expected, found = trunk(images()), folded(images())
        self.assertEqual(list(found), list(LAYERS))
        for layer in LAYERS:
            self.assertEqual(found[layer].shape, expected[layer].shape)
            self.assertAllClose(found[layer], expected[layer], atol=1e-4, rtol=0, msg=layer)
            self.assertGreater(np.ptp(expected[layer]), 0.01, layer)  # not a comparison of zeros

    @pytest.mark.slow
    def test_first_convolutions_of_a_resnet_fold_too_whatever_their_stride(self):
        for kind in ("resnet18", "resnet50"):
            for stem, side in (("imagenet", 9), ("small", 5)):
                for size in (RESOLUTION, RESOLUTION + 1):  # the stride divides one of them
                    settings = dict(width=1 / 16, resolution=size, stem=stem)
                    trunk = make_trunk(kind, **settings, seed=2).built_at_resolution()
                    trunk(images(8, size, seed=1), training=True)
                    folded = fold(trunk)
                    bright = np.concatenate([images(2, size), np.ones((1, size, size, 3))])
                    expected, found = trunk(bright), folded(bright)
                    kernel = named_weights(folded)["conv1"]["kernel"]
                    self.assertEqual(kernel.shape, (side, side, 3, 4))
                    for layer in trunk.layer_names:
                        self.assertAllClose(found[layer], expected[layer], atol=1e-4, msg=layer)
                    self.assertGreater(np.ptp(expected["pool"]), 0.01)

    def test_folding_is_exact_at_the_borders_of_an_image_that_is_bright_there(self):
        trunk = trained_like(seed=1)
        bright = np.ones((1, RESOLUTION, RESOLUTION, 3), np.float32)
        expected, found = trunk(bright)["conv1"], fold(trunk)(bright)["conv1"]
        self.assertAllClose(found, expected, atol=1e-4, rtol=0)
        border, inside = expected[0, 0], expected[0, RESOLUTION // 2]
        self.assertGreater(np.abs(border - inside).max(), 0.1)

    def test_the_folded_kernel_is_the_full_convolution_of_both(self):
        impulse = np.zeros((3, 3, 2, 1), np.float32)
        impulse[1, 1, 0, 0] = 1  # passes on d/dx
        expected = np.zeros((5, 5))
        expected[1:4, 1:4] = [[1, 0, -1], [2, 0, -2], [1, 0, -1]]
        for colour in range(3):
            self.assertAllClose(fold_kernel(impulse)[:, :, colour, 0], expected / 3)

    def test_every_weight_of_the_folded_network_gets_a_gradient(self):
        folded = fold(trained_like())
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(folded(images(4), training=True)["fc7"] ** 2)
        conv1 = named_weights(folded)["conv1"]["kernel"]
        self.assertEqual(conv1.shape, [5, 5, 3, 4])
        self.assertTrue(any(v is conv1 for v in folded.trainable_variables))
        self.assertGreater(np.abs(tape.gradient(loss, conv1)).max(), 0)

    def test_a_network_without_sobel_is_refused(self):
        for trunk in [trained_like(sobel=False), fold(trained_like())]:
            with self.assertRaisesRegex(ConfigError, "sobel='layer'"):
                fold(trunk)

    def test_weights_are_copied_by_name_and_shape(self):
        trunk = trained_like()
        copy = trained_like(seed=1)
        copy_weights(trunk, into=copy)
        self.assertAllEqual(copy(images())["fc7"], trunk(images())["fc7"])
        narrow = trained_like(fc=8)
        with self.assertRaisesRegex(ConfigError, r"fc6/kernel is \(32, 12\).*\(32, 8\)"):
            copy_weights(trunk, into=narrow)

    def test_folded_networks_copy_to_folded_networks(self):
        folded = fold(trained_like())
        copy = VGG16(**folded.settings, folded=True).built_at_resolution()
        copy_weights(folded, into=copy)
        self.assertAllEqual(copy(images())["conv13"], folded(images())["conv13"])


if __name__ == "__main__":
    tf.test.main()
