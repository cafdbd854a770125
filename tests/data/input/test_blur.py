"""The blur against those of SciPy and tensorflow-addons."""

import numpy as np
import stacks
import tensorflow as tf
from scipy.ndimage import gaussian_filter1d

from dc_tf.data.input.blur import blur, radius_of


def by_scipy(image, sigma):
    """Filtered with zeros outside, divided by what a white image becomes: a weighted mean."""
    radius = radius_of(len(image))
    for axis in (0, 1):
        image, white = (
            gaussian_filter1d(x, sigma, axis, mode="constant", radius=radius)
            for x in (np.float64(image), np.ones(image.shape))
        )
        image = image / white
    return image


class BlurTest(tf.test.TestCase):
    def test_it_is_a_gaussian_of_any_deviation_at_any_size(self):
        for size in (20, 32, 48, 65, 96, 224):
            image = np.random.default_rng(size).random((size, size, 3), np.float32)
            for sigma in (0.1, 0.7, 2.0):
                self.assertAllClose(blur(tf.constant(image), sigma), by_scipy(image, sigma), 1e-5)

    @stacks.needs_addons
    def test_it_is_that_of_addons_divided_by_what_a_white_image_becomes(self):
        import tensorflow_addons as tfa

        for size in (20, 65, 96):
            image = np.random.default_rng(size).random((size, size, 3), np.float32)
            for sigma in (0.1, 0.7, 2.0):
                theirs, white = (
                    tfa.image.gaussian_filter2d(
                        tf.constant(x), 2 * radius_of(size) + 1, sigma, padding="CONSTANT"
                    )
                    for x in (image, np.ones_like(image))
                )
                self.assertAllClose(blur(tf.constant(image), sigma), theirs / white, 1e-5)

    def test_the_kernel_is_about_a_tenth_of_the_side(self):
        self.assertEqual([radius_of(size) for size in (32, 96, 224)], [1, 4, 11])

    def test_an_even_image_stays_and_white_stays_in_range(self):
        for value in (0.0, 0.3, 1.0):
            image = blur(tf.fill([50, 50, 3], value), 1.7)
            self.assertAllClose(image, np.full((50, 50, 3), value), atol=1e-6)
            self.assertAllInRange(image, 0, 1)


if __name__ == "__main__":
    tf.test.main()
