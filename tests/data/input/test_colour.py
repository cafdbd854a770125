"""Colours against PIL, colorsys and NumPy."""

import colorsys

import numpy as np
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from dc_tf.data.input.colour import GREY, greyscale, jitter, solarise

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
IMAGE = tf.constant(PIXELS / np.float32(255))
STEP = 1 / 255


def pixels(pil):
    return np.asarray(pil.convert("RGB")) / 255


def blends(image, brightness, contrast, saturation):
    """The three changes one after the other, in float64, clipped at the end."""
    x = brightness * np.asarray(image, np.float64)
    x = contrast * x + (1 - contrast) * (x @ GREY).mean()
    x = saturation * x + (1 - saturation) * (x @ GREY)[..., None]
    return np.clip(x, 0, 1)


class JitterTest(tf.test.TestCase):
    def test_brightness_contrast_and_saturation_are_those_of_pil(self):
        pil = Image.fromarray(PIXELS)
        kinds = ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color
        for place, kind in enumerate(kinds):
            for share in (0.0, 0.3, 0.9):
                uniform = np.full(4, 0.5, np.float32)
                uniform[place] = share
                expected = pixels(kind(pil).enhance(1 + 0.8 * (2 * share - 1)))
                self.assertAllClose(jitter(IMAGE, 1.0, uniform), expected, atol=1.6 * STEP)

    def test_the_three_together_equal_one_after_the_other(self):
        found = jitter(IMAGE, 0.5, [0.1, 0.8, 0.9, 0.5])
        self.assertAllClose(found, blends(IMAGE, 0.68, 1.24, 1.32), atol=1e-5)

    def test_the_hue_is_shifted_as_by_colorsys(self):
        for share in (0.0, 0.25, 0.9):
            shift = 0.2 * (2 * share - 1)
            expected = [
                colorsys.hsv_to_rgb((h + shift) % 1, s, v)
                for h, s, v in (colorsys.rgb_to_hsv(*x) for x in IMAGE.numpy().reshape(-1, 3))
            ]
            found = jitter(IMAGE, 1.0, [0.5, 0.5, 0.5, share])
            self.assertAllClose(tf.reshape(found, [-1, 3]), expected, atol=1e-5)

    def test_values_stay_in_range_at_any_strength(self):
        for strength in (0.5, 1.0, 10.0):
            for seed in range(20):
                uniform = tf.random.stateless_uniform([4], [seed, 0])
                self.assertAllInRange(jitter(IMAGE, strength, uniform), 0, 1)

    def test_strength_0_changes_rounding_only(self):
        self.assertAllClose(jitter(IMAGE, 0.0, [0.1, 0.9, 0.3, 0.8]), IMAGE, atol=1e-6)


class OthersTest(tf.test.TestCase):
    def test_greyscale_is_that_of_pil(self):
        expected = pixels(Image.fromarray(PIXELS).convert("L"))
        self.assertAllClose(greyscale(IMAGE), expected, atol=STEP)
        self.assertAllInRange(greyscale(tf.ones([4, 4, 3])), 0.999, 1)

    def test_solarise_is_that_of_pil(self):
        expected = pixels(ImageOps.solarize(Image.fromarray(PIXELS)))
        self.assertAllClose(solarise(IMAGE), expected, atol=1e-6)


if __name__ == "__main__":
    tf.test.main()
