import collections
import io
import itertools
import pathlib
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn import linear_model

from dc_tf.data.storage import schema
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.data.synthetic import objects
from dc_tf.data.synthetic.generate import CLASS_NAMES, draw_chunk, generate
from dc_tf.data.synthetic.photo_metadata import HAUNTS, WORDS, PhotoSite
from dc_tf.data.synthetic.scenes import HOURS, PLACES, scene
from dc_tf.errors import ConfigError


def pixels(pictures):
    """(n, size, size, 3) uint8 of generated pictures."""
    return np.stack([np.array(Image.open(io.BytesIO(picture.encoded))) for picture in pictures])


class GenerateTest(tf.test.TestCase):
    def folder(self):
        return pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir())) / "data"

    def records(self, **settings):
        """The records of a data set generated with the given settings."""
        output = self.folder()
        generate(output, **settings)
        reader = RowReader(Dataset.open(output))
        return reader.read(np.arange(settings["images"]))

    def test_rows_labels_and_shards_are_those_asked_for(self):
        output = self.folder()
        result = generate(output, images=70, size=40, rows_per_shard=30, processes=1)
        dataset = Dataset.open(output)
        self.assertEqual([shard.rows for shard in dataset.shards], [30, 30, 10])
        self.assertEqual(dataset.class_names, CLASS_NAMES)
        counted = np.bincount(dataset.labels(), minlength=len(CLASS_NAMES))
        self.assertAllEqual(list(result["class_counts"].values()), counted)
        image = schema.decode_example(RowReader(dataset).read(np.array([69]))[0])["encoded"]
        self.assertEqual(tf.io.decode_jpeg(image).shape, (40, 40, 3))

    def test_the_number_of_processes_and_of_images_changes_no_image(self):
        alone = self.records(images=130, size=32, processes=1)
        self.assertEqual(self.records(images=130, size=32, processes=2), alone)
        self.assertEqual(self.records(images=20, size=32, processes=1), alone[:20])

    def test_splits_and_seeds_have_no_image_in_common(self):
        one = draw_chunk(range(50), size=32, seed=0, split="train", classes=12)
        for seed, split in [(0, "test"), (1, "train")]:
            other = draw_chunk(range(50), size=32, seed=seed, split=split, classes=12)
            self.assertEmpty({p.encoded for p in one} & {p.encoded for p in other})

    @pytest.mark.slow
    def test_classes_are_long_tailed(self):
        pictures = draw_chunk(range(600), size=32, seed=0, split="train", classes=6)
        counts = np.bincount([picture.label for picture in pictures])
        expected = 600 / np.arange(1, 7) / np.sum(1 / np.arange(1, 7))
        # Three standard deviations of a count of n is about 3 sqrt(n).
        self.assertAllLess(np.abs(counts - expected) / np.sqrt(expected), 3)

    def test_metadata_goes_with_content_without_giving_it_away(self):
        rng, site = np.random.default_rng(0), PhotoSite(seed=0)
        boats = [site.take("boat", rng) for _ in range(300)]
        on_water = np.mean([PLACES[photo.place][3] == "water" for photo in boats])
        tagged = np.mean(["boat" in photo.hashtags for photo in boats])
        for share in (on_water, tagged):
            self.assertBetween(share, 0.5, 0.99)
        cameras = collections.defaultdict(collections.Counter)
        users = collections.Counter(photo.user for photo in boats)
        for photo in boats:
            cameras[photo.user][photo.camera] += 1
        self.assertGreater(users.most_common(1)[0][1], 2 * 300 / len(users))
        self.assertLessEqual(max(map(len, cameras.values())), 2)

    def test_metadata_is_stored_in_the_record(self):
        for record in self.records(images=5, size=32, processes=1):
            meta = schema.decode_example(record)["meta"]
            self.assertContainsSubset({"user", "camera", "latitude", "longitude"}, meta)
            self.assertBetween(meta["latitude"], -90, 90)

    @pytest.mark.slow
    def test_a_corner_does_not_tell_up_from_down(self):
        light = self.upright(300).mean(axis=-1)
        upright, turned = light[:, :3, :3].mean((1, 2)), light[:, -3:, -3:].mean((1, 2))
        for threshold in range(0, 256, 5):
            right = (np.mean(upright > threshold) + np.mean(turned <= threshold)) / 2
            self.assertBetween(right, 0.3, 0.7)

    @pytest.mark.slow
    def test_the_whole_picture_tells_up_from_down(self):
        upright = self.upright(400)
        light = np.concatenate([upright, upright[:, ::-1, ::-1]]).mean(axis=-1) / 255
        x = light.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(-1, 64)
        y, held_out = np.arange(800) // 400, np.arange(800) % 4 == 0
        model = linear_model.LogisticRegression(C=0.1, max_iter=500).fit(x[~held_out], y[~held_out])
        self.assertGreater(model.score(x[held_out], y[held_out]), 0.75)

    def upright(self, count):
        """(count, 32, 32, 3) uint8 pictures as they were made."""
        return pixels(draw_chunk(range(count), size=32, seed=0, split="train", classes=12))

    def test_settings_out_of_range_are_refused_before_anything_is_written(self):
        wrong = [{"images": 0}, {"size": 8}, {"classes": 13}, {"seed": -1}, {"split": "valid"}]
        for setting in wrong:
            output = self.folder()
            with self.assertRaisesRegex(ConfigError, next(iter(setting))):
                generate(output, **setting)
            self.assertFalse(output.exists())


class DrawingTest(tf.test.TestCase):
    def test_every_object_stands_on_its_foot_and_reaches_its_top(self):
        for name in objects.OBJECTS:
            for seed in range(5):
                image = objects.draw(name, 100, np.random.default_rng(seed))
                opaque = np.asarray(image)[..., 3].any(axis=1)
                self.assertEqual(image.height, 100)
                self.assertTrue(opaque[-4:].any(), f"{name} {seed} floats")
                self.assertTrue(opaque[:14].any(), f"{name} {seed} is too small")

    def test_every_object_place_and_hour_goes_together_at_any_size(self):
        rng, sizes = np.random.default_rng(0), itertools.cycle([32, 33, 64, 96])
        for object_name in objects.OBJECTS:
            for place, hour, size in zip(PLACES, itertools.cycle(HOURS), sizes):
                image = scene(object_name, place, hour, size, rng)
                self.assertEqual((image.shape, image.dtype), ((size, size, 3), np.uint8))
                self.assertGreater(image.std(), 3)

    def test_every_object_has_places_and_words(self):
        self.assertEqual(list(HAUNTS), list(objects.OBJECTS))
        self.assertEqual(list(WORDS), list(objects.OBJECTS))


if __name__ == "__main__":
    tf.test.main()
