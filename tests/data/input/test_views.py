"""Views of an image: their sizes, areas, seeds and rotation."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dc_tf.data.input.augment import random_resized_crop, random_window, rotate
from dc_tf.data.input.photometric import Photometric
from dc_tf.data.input.views import Views, make_views

TWO_AND_THREE = Views(2, 3, 20)


def encoded(form):
    """A smooth picture whose red grows to the right and whose green grows downwards."""
    rows, columns = np.mgrid[0:90, 0:120]
    pixels = np.stack([2 * columns, 2 * rows, 60 + 0 * rows], -1).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **({"quality": 95} if form == "JPEG" else {}))
    return out.getvalue()


class ViewsTest(tf.test.TestCase):
    def test_one_view_is_the_crop_of_todays_bit_for_bit(self):
        for form in ("JPEG", "PNG"):
            views = make_views(encoded(form), [3, 4], 1, 32, min_area=0.3)
            self.assertEqual(list(views), ["image"])
            expected = rotate(random_resized_crop(encoded(form), 32, [3, 4], 0.3), 1)
            self.assertAllEqual(views["image"], expected)

    def test_views_have_their_sizes_and_the_first_is_that_of_a_single_one(self):
        for form, tolerance in (("PNG", 0.0), ("JPEG", 0.02)):
            views = make_views(encoded(form), [3, 4], 0, 32, views=TWO_AND_THREE)
            self.assertEqual(views["image"].shape, [2, 32, 32, 3])
            self.assertEqual(views["local_image"].shape, [3, 20, 20, 3])
            single = make_views(encoded(form), [3, 4], 0, 32)["image"]
            self.assertAllClose(views["image"][0], single, atol=tolerance)
            flat = [view.numpy().ravel()[:60] for part in views.values() for view in part]
            self.assertLen(np.unique(flat, axis=0), 5)

    def test_without_local_views_there_are_none(self):
        self.assertEqual(list(make_views(encoded("PNG"), [3, 4], 0, 32, views=Views(2))), ["image"])

    def test_all_views_have_the_rotation_of_the_image(self):
        settings = Photometric(jitter=0.5, blur=0.5)
        upright, turned = (
            make_views(encoded("PNG"), [5, 6], turns, 32, views=TWO_AND_THREE, settings=settings)
            for turns in (0, 3)
        )
        for name, views in upright.items():
            for view, other in zip(views.numpy(), turned[name].numpy(), strict=True):
                self.assertAllEqual(np.rot90(view, 3), other)

    def test_views_differ_in_their_colours(self):
        settings = Photometric(jitter=1.0)
        plain = make_views(encoded("PNG"), [5, 6], 0, 32, views=Views(4))["image"]
        views = make_views(encoded("PNG"), [5, 6], 0, 32, views=Views(4), settings=settings)
        changes = [float(change) for change in tf.reduce_mean(views["image"] - plain, [1, 2, 3])]
        self.assertGreater(len(set(changes)), 2)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_local_views_show_a_small_part_and_global_views_a_large_one(self):
        views = Views(1, 1, 32, local_min_area=0.05, local_max_area=0.14)
        shares = {"image": [], "local_image": []}
        for seed in range(60):
            found = make_views(encoded("PNG"), [seed, 1], 0, 32, 0.5, flip=False, views=views)
            for name, share in shares.items():
                # Red and green grow by a known amount from side to side of the whole picture.
                red, green = (np.ptp(found[name][0, :, :, c].numpy()) * 255 for c in (0, 1))
                share.append((red / 238) * (green / 178))
        self.assertAllInRange(shares["local_image"], 0.02, 0.15)
        self.assertAllInRange(shares["image"], 0.42, 1.0)

    def test_a_window_has_an_area_between_the_smallest_and_the_largest(self):
        uniform = tf.random.stateless_uniform([200, 22], [1, 2])
        windows = np.stack([random_window(300, 400, u, 0.05, 4 / 3, 0.14) for u in uniform])
        shares = windows[:, 2] * windows[:, 3] / (300 * 400)
        self.assertAllInRange(shares, 0.049, 0.142)
        self.assertLess(shares.min(), 0.06)
        self.assertGreater(shares.max(), 0.13)


if __name__ == "__main__":
    tf.test.main()
