"""The fixed input stage against closed forms."""

import numpy as np
import pytest
import tensorflow as tf

from dc_tf.nn.sobel import RGB_MEAN, RGB_STD, Normalize, Padding, Sobel

pytestmark = [pytest.mark.numeric, pytest.mark.tf215]


def by_loops(image):
    """Sobel of a (h, w, 3) image written out: grey, zeros around it, two differences."""
    grey = np.pad(image.mean(-1), 2)
    height, width = image.shape[0] + 2, image.shape[1] + 2
    out = np.zeros((height, width, 2))
    for i in range(height):
        for j in range(width):
            w = grey[i : i + 3, j : j + 3]
            out[i, j, 0] = w[0, 0] + 2 * w[1, 0] + w[2, 0] - w[0, 2] - 2 * w[1, 2] - w[2, 2]
            out[i, j, 1] = w[0, 0] + 2 * w[0, 1] + w[0, 2] - w[2, 0] - 2 * w[2, 1] - w[2, 2]
    return out


class SobelTest(tf.test.TestCase):
    def test_maps_equal_the_differences_written_out_borders_included(self):
        images = np.random.default_rng(0).random((2, 7, 9, 3), np.float32)
        got = Sobel()(images)
        self.assertEqual(got.shape, (2, 9, 11, 2))
        self.assertAllClose(got, [by_loops(image) for image in images], atol=1e-5)

    def test_a_ramp_has_a_constant_slope_inside(self):
        ramp = np.broadcast_to(np.arange(8.0)[None, None, :, None], (1, 8, 8, 3))
        inside = Sobel()(tf.constant(ramp, tf.float32))[0, 3:-3, 3:-3]
        self.assertAllClose(inside[..., 0], -8 * np.ones((4, 4)))
        self.assertAllClose(inside[..., 1], np.zeros((4, 4)), atol=1e-5)

    def test_224_becomes_226_with_and_without_sobel(self):
        images = tf.zeros([1, 224, 224, 3])
        self.assertEqual(Sobel()(images).shape, (1, 226, 226, 2))
        self.assertEqual(Padding(1)(images).shape, (1, 226, 226, 3))

    def test_nothing_is_trained(self):
        layer = Sobel()
        layer(tf.zeros([1, 8, 8, 3]))
        self.assertEmpty(layer.variables)

    def test_the_mean_colour_becomes_zero(self):
        image = np.broadcast_to(np.float32(RGB_MEAN), (1, 2, 2, 3))
        self.assertAllClose(Normalize()(image), np.zeros((1, 2, 2, 3)), atol=1e-6)
        image = image + np.float32(RGB_STD)
        self.assertAllClose(Normalize()(image), np.ones((1, 2, 2, 3)), atol=1e-5)


if __name__ == "__main__":
    tf.test.main()
