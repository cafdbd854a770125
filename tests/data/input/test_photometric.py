"""Photometric augmentation: how often, in which order, and from which seeds."""

import numpy as np
import pytest
import tensorflow as tf

from dc_tf.data.input.photometric import Photometric, photometric

IMAGE = tf.constant(np.random.default_rng(0).random((20, 20, 3), np.float32))
SEEDS = tf.constant(np.random.default_rng(1).integers(0, 2**31, (600, 2)), tf.int32)


def of_all_seeds(settings):
    """(600, 20, 20, 3)."""
    change = tf.function(lambda seed: photometric(IMAGE, seed, settings), autograph=False)
    return np.stack([change(seed) for seed in SEEDS])


def changed(images):
    return np.any(images != IMAGE.numpy(), axis=(1, 2, 3))


class PhotometricTest(tf.test.TestCase):
    def test_without_settings_it_is_the_image_itself(self):
        self.assertIs(photometric(IMAGE, [1, 2], Photometric()), IMAGE)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_each_change_is_applied_with_its_probability(self):
        for settings, share in (
            (Photometric(jitter=0.5), 0.8),
            (Photometric(greyscale=0.2), 0.2),
            (Photometric(blur=0.5), 0.5 * 0.96),  # narrower than 0.18 pixels it changes nothing
            (Photometric(solarise=0.3), 0.3),
        ):
            self.assertAllClose(changed(of_all_seeds(settings)).mean(), share, atol=0.06)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_the_draws_of_one_do_not_depend_on_the_others(self):
        grey = of_all_seeds(Photometric(greyscale=0.5))
        both = of_all_seeds(Photometric(jitter=1.0, greyscale=0.5))
        is_grey = np.ptp(both, axis=-1).max((1, 2)) < 1e-6
        self.assertAllEqual(is_grey, changed(grey))

    @pytest.mark.merge
    @pytest.mark.slow
    def test_equal_seeds_give_equal_pixels_and_others_others(self):
        settings = Photometric(1.0, 0.2, 0.5, 0.2)
        images = of_all_seeds(settings)
        self.assertAllEqual(images, of_all_seeds(settings))
        self.assertGreater(len(np.unique(images.reshape(600, -1), axis=0)), 450)
        self.assertAllInRange(images, 0, 1)


if __name__ == "__main__":
    tf.test.main()
