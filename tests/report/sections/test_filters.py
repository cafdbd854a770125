"""Sobel channels of images, pictures of filters, thumbnails."""

import base64
import io
import os
import tempfile

import clustered
import numpy as np
import pictures
import tensorflow as tf
from PIL import Image

from dc_tf.data.storage.manifest import Dataset
from dc_tf.nn.sobel import Sobel
from dc_tf.report.sections.filters import filter_sheets, sobel_sheets
from dc_tf.report.thumbnails import Thumbnails, mean_colour


def decode(uri):
    kind, data = uri.split(";base64,")
    assert kind == "data:image/webp"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


class FiltersTest(tf.test.TestCase):
    def test_sobel_channels_are_those_of_the_network(self):
        encoded = pictures.encoded(3, size=(64, 64))
        image, *channels = sobel_sheets(encoded)
        self.assertEqual((image.width, image.height), (64, 64))
        own = np.asarray(Image.open(io.BytesIO(encoded)), np.float32)[None] / 255
        maps = Sobel()(own)[0, 2:-2, 2:-2].numpy()  # inside: the borders are padded otherwise
        for channel, sheet in enumerate(channels):
            found = decode(sheet.uri)[1:-1, 1:-1, 0].astype(float)
            correlation = np.corrcoef(found.ravel(), maps[..., channel].ravel())[0, 1]
            self.assertGreater(correlation, 0.97, sheet.name)

    def test_an_unreadable_image_has_no_channels(self):
        self.assertEqual(sobel_sheets(b"no image"), [])

    def test_a_filter_is_drawn_with_its_weights(self):
        kernel = np.zeros((3, 3, 2, 20), np.float32)
        kernel[0, 2, 1, 17] = 0.5
        kernel[1, 1, 1, 17] = -0.25
        sheets = filter_sheets(kernel)
        self.assertEqual([s.name for s in sheets], ["horizontal gradient", "vertical gradient"])
        drawn = decode(sheets[1].uri)
        cell = sheets[1].height // 7  # two rows of three weights and a gap
        y, x = 4, 4  # filter 17 is the second of the second row
        middle = [(place + 0.5) * cell for place in (y, x + 2, y + 1, x + 1)]
        top, right, down, centre = map(int, middle)
        self.assertAllClose(drawn[top, right], [255] * 3, atol=1)
        self.assertAllClose(drawn[down, centre], [64] * 3, atol=1)
        self.assertAllClose(decode(sheets[0].uri)[1, 1], [127] * 3, atol=1)

    def test_filters_of_colours_are_one_picture(self):
        kernel = np.zeros((3, 3, 3, 4), np.float32)
        kernel[..., 0, 0] = 1.0
        (sheet,) = filter_sheets(kernel)
        self.assertAllClose(decode(sheet.uri)[1, 1], [255, 127, 127], atol=1)


class ThumbnailsTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "data")
        self.dataset = Dataset.open(clustered.write_data(path, rows=6))

    def test_a_picture_is_square_and_says_what_it_is(self):
        found = Thumbnails(self.dataset, side=20)
        found.load([5, 2, 5])
        self.assertEqual(decode(found[5].uri).shape, (20, 20, 3))
        self.assertAllClose(decode(found[5].uri).mean((0, 1)), [200, 40, 40], atol=14)
        self.assertEqual(found[5].text, "row 5, photos/5.png, dog")

    def test_a_corrupt_image_has_no_picture(self):
        (shard,) = [name for name in os.listdir(self.dataset.path) if name.endswith(".tfrecord")]
        with open(os.path.join(self.dataset.path, shard), "r+b") as file:
            file.seek(100)
            file.write(b"\0\0\0\0")
        found = Thumbnails(self.dataset)
        found.load([0, 1])
        self.assertIsNone(found[0].uri)
        self.assertIn("unreadable", found[0].text)
        self.assertIsNotNone(found[1].uri)

    def test_a_mean_colour_is_that_of_the_pixels(self):
        encoded = pictures.encoded(1, size=(40, 24))
        pixels = np.asarray(Image.open(io.BytesIO(encoded)), np.float32)
        self.assertAllClose(mean_colour(encoded), pixels.mean((0, 1)), atol=1.0)
        self.assertIsNone(mean_colour(b""))


if __name__ == "__main__":
    tf.test.main()
