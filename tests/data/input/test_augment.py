"""Crops, flips and rotations against plain NumPy, and the crop's distribution."""

import io

import numpy as np
import pytest
import stacks
import tensorflow as tf
from PIL import Image

from dc_tf.data.input.augment import center_crop, random_resized_crop, random_window, rotate


def encode(pixels, form):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **({"quality": 100} if form == "JPEG" else {}))
    return out.getvalue()


def ramp(height, width):
    """Red grows to the right, green downward: every place has its own colour."""
    y, x = np.mgrid[:height, :width]
    planes = [x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), np.full_like(x, 90)]
    return np.stack(planes, -1).astype(np.uint8)


def windows(height, width, n, min_area=0.08, max_ratio=4 / 3, seed=0):
    uniform = np.random.default_rng(seed).random((n, 22), np.float32)
    choose = tf.function(
        lambda u: tf.map_fn(
            lambda row: random_window(height, width, row, min_area, max_ratio),
            u,
            fn_output_signature=tf.int32,
        )
    )
    return uniform, choose(tf.constant(uniform)).numpy()


def reference_window(height, width, uniform, min_area=0.08, max_ratio=4 / 3):
    """The crop as a loop over tries."""
    for area, shape in zip(uniform[:10], uniform[10:20], strict=True):
        area = height * width * (min_area + (1 - min_area) * area)
        ratio = max_ratio ** (2 * shape - 1)
        w, h = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 1 <= w <= width and 1 <= h <= height:
            top, left = (uniform[20:22] * (height - h + 1, width - w + 1)).astype(int)
            return top, left, h, w
    w, h = min(width, round(height * max_ratio)), min(height, round(width * max_ratio))
    return (height - h) // 2, (width - w) // 2, h, w


class RandomWindowTest(tf.test.TestCase):
    @pytest.mark.merge
    @pytest.mark.slow
    def test_it_equals_a_loop_over_ten_tries(self):
        for height, width in [(300, 400), (32, 32), (90, 500), (40, 7), (1, 1), (1, 600)]:
            uniform, found = windows(height, width, 300, seed=height)
            expected = [reference_window(height, width, row) for row in uniform]
            # A product on the edge between two pixels may round either way in float32.
            self.assertLess(np.mean(np.any(found != expected, axis=1)), 0.01)

    def test_area_is_uniform_and_ratio_log_uniform(self):
        # Small parts of a large image always fit, so no try is lost and the laws are exact.
        _, found = windows(4000, 4000, 4000, min_area=0.1, max_ratio=4 / 3)
        _, small = windows(4000, 4000, 4000, min_area=0.5, max_ratio=1.0)
        area = small[:, 2] * small[:, 3] / 4000.0**2
        self.assertLess(distance_to_uniform((area - 0.5) / 0.5), 0.03)
        fitting = found[found[:, 2] * found[:, 3] < 4000**2 * 0.7]
        log_ratio = np.log(fitting[:, 3] / fitting[:, 2]) / np.log(4 / 3)
        self.assertLess(distance_to_uniform((log_ratio + 1) / 2), 0.03)

    def test_places_reach_both_borders_evenly(self):
        _, found = windows(8, 8, 4000, min_area=0.2, max_ratio=1.0)
        part = found[found[:, 2] == 5]
        for column in (0, 1):
            share = np.bincount(part[:, column], minlength=4) / len(part)
            self.assertAllClose(share, [0.25] * 4, atol=0.06)

    def test_a_window_always_lies_inside(self):
        for height, width in [(1, 1), (1, 50), (50, 1), (2, 3), (1000, 10), (33, 31)]:
            _, found = windows(height, width, 200)
            self.assertTrue(np.all(found >= [0, 0, 1, 1]))
            self.assertAllLessEqual(found[:, 0] + found[:, 2], height)
            self.assertAllLessEqual(found[:, 1] + found[:, 3], width)


def distance_to_uniform(sample):
    """Kolmogorov's distance of a sample from the uniform law on [0, 1]."""
    return np.abs(np.sort(sample) - (np.arange(len(sample)) + 0.5) / len(sample)).max()


class RandomResizedCropTest(tf.test.TestCase):
    def test_the_same_seed_gives_the_same_pixels(self):
        image = encode(ramp(60, 80), "JPEG")
        once = random_resized_crop(image, 32, seed=[3, 4])
        self.assertAllEqual(once, random_resized_crop(image, 32, seed=[3, 4]))
        self.assertNotAllEqual(once, random_resized_crop(image, 32, seed=[3, 5]))
        self.assertEqual(once.shape, [32, 32, 3])
        self.assertEqual(once.dtype, tf.float32)

    def test_jpeg_and_png_get_the_same_crop(self):
        pixels = ramp(64, 96)
        for seed in range(5):
            jpeg = random_resized_crop(encode(pixels, "JPEG"), 24, seed=[seed, 0])
            png = random_resized_crop(encode(pixels, "PNG"), 24, seed=[seed, 0])
            self.assertAllClose(jpeg, png, atol=0.03)

    def test_the_whole_image_is_kept_at_full_area(self):
        image = random_resized_crop(
            encode(ramp(20, 20), "PNG"), 20, [0, 0], min_area=1.0, max_ratio=1.0, flip=False
        )
        self.assertAllClose(image, ramp(20, 20) / 255.0, atol=1e-6)

    def test_resizing_equals_tensorflows(self):
        pixels = np.random.default_rng(0).integers(0, 256, (45, 45, 3), np.uint8)
        for size in (7, 24, 44, 45, 80):
            image = random_resized_crop(
                encode(pixels, "PNG"), size, [0, 0], min_area=1.0, max_ratio=1.0, flip=False
            )
            expected = tf.image.resize(pixels, [size, size], antialias=True) / 255.0
            self.assertAllClose(image, expected, atol=1e-6)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_half_of_the_images_are_mirrored(self):
        image = encode(ramp(16, 16), "PNG")
        crop = tf.function(
            lambda seed: random_resized_crop(image, 16, seed, min_area=1.0, max_ratio=1.0)
        )
        seeds = tf.stack([tf.range(400), tf.zeros(400, tf.int32)], 1)
        mirrored = [bool(crop(seed)[0, 0, 0] > 0.5) for seed in seeds]
        self.assertBetween(np.mean(mirrored), 0.4, 0.6)

    def test_grey_and_one_pixel_images_become_rgb(self):
        for pixels in (np.full((9, 7), 128, np.uint8), np.full((1, 1, 3), 128, np.uint8)):
            for form in ("JPEG", "PNG"):
                for image in (
                    random_resized_crop(encode(pixels, form), 8, seed=[1, 2]),
                    center_crop(encode(pixels, form), 8, short_side=8),
                ):
                    self.assertAllClose(image, np.full((8, 8, 3), 128 / 255.0), atol=0.01)


class CenterCropTest(tf.test.TestCase):
    def test_it_equals_resizing_the_whole_and_cutting(self):
        pixels = ramp(60, 101)
        resized = tf.image.resize(pixels, [32, 54], antialias=True)
        expected = resized[4:28, 15:39] / 255.0
        self.assertAllClose(center_crop(encode(pixels, "PNG"), 24, 32), expected, atol=1e-4)

    def test_an_image_of_the_right_size_is_untouched(self):
        pixels = ramp(32, 32)
        self.assertAllClose(center_crop(encode(pixels, "PNG"), 32, 32), pixels / 255.0, atol=1e-6)

    def test_fine_stripes_become_grey_and_not_noise(self):
        pixels = np.zeros((256, 256, 3), np.uint8)
        pixels[:, ::2] = 255
        image = center_crop(encode(pixels, "PNG"), 32, 32)
        self.assertAllClose(image[:, 2:-2], np.full((32, 28, 3), 0.5), atol=0.02)


class RotateTest(tf.test.TestCase):
    def test_it_turns_counter_clockwise_like_numpy(self):
        image = np.random.default_rng(0).random((5, 5, 3), np.float32)
        for turns in range(-2, 6):
            self.assertAllEqual(rotate(tf.constant(image), turns), np.rot90(image, turns))

    @stacks.needs_addons
    def test_it_turns_as_addons_does_by_an_angle(self):
        import tensorflow_addons as tfa

        image = np.random.default_rng(0).random((6, 6, 3), np.float32)
        for turns in range(4):
            theirs = tfa.image.rotate(tf.constant(image), turns * np.pi / 2)
            self.assertAllEqual(rotate(tf.constant(image), turns), theirs)

    def test_right_goes_up_on_one_quarter_turn(self):
        right = np.zeros((3, 3, 1), np.float32)
        right[1, 2] = 1
        self.assertEqual(rotate(tf.constant(right), 1)[0, 1, 0], 1.0)

    def test_turns_may_be_a_tensor_in_a_graph(self):
        image = tf.reshape(tf.range(12.0), [2, 2, 3])
        turn = tf.function(
            rotate, input_signature=[tf.TensorSpec([2, 2, 3]), tf.TensorSpec([], tf.int32)]
        )
        self.assertAllEqual(turn(image, 3), np.rot90(image, 3))


if __name__ == "__main__":
    tf.test.main()
