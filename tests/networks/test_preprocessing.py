"""What is done to images: presets, settings over them, files, and what networks say themselves."""

import json
import os

import numpy as np
import tensorflow as tf

from dc_tf.errors import ConfigError
from dc_tf.networks.network import prepare
from dc_tf.networks.preprocessing import PRESETS, Preprocessing, from_dict, read


class ReadTest(tf.test.TestCase):
    def test_a_preset_with_settings_over_it(self):
        found = read("imagenet,size=299,crop=0.9")
        self.assertEqual((found.size, found.crop), (299, 0.9))
        self.assertEqual(found.mean, read("imagenet").mean)
        self.assertEqual(read("0-1"), Preprocessing())

    def test_settings_alone_with_lists(self):
        found = read("scale=255,mean=[124,117,104],order=bgr,size=227")
        self.assertEqual(found.mean, (124.0, 117.0, 104.0))
        self.assertEqual((found.scale, found.order, found.size), (255.0, "bgr", 227))
        self.assertEqual(read("mean=0.5").mean, (0.5,))

    def test_a_file_names_a_preset_and_changes_it(self):
        path = os.path.join(self.get_temp_dir(), "theirs.yaml")
        with open(path, "w") as file:
            file.write("preset: clip\nsize: 336\n")
        self.assertEqual(read(path), read("clip,size=336"))

    def test_what_is_recorded_is_read_again(self):
        for preset in PRESETS:
            framed = read(preset).framed(64)
            self.assertEqual(from_dict(json.loads(json.dumps(framed.as_dict()))), framed)

    def test_wrong_ones_are_refused_with_what_would_work(self):
        for text, message in (
            ("imagnet", "'imagnet'; use one of 0-1, .*imagenet"),
            ("sizes=3", "unknown setting .sizes.; known here: .*size"),
            ("order=rbg", "order is 'rbg'; use rgb or bgr"),
            ("mean=[1,2]", "mean is .*; use one number, or three"),
            ("deviation=[0,1,1]", "use positive numbers"),
            ("crop=1.5", "crop is 1.5; use a share"),
        ):
            with self.assertRaisesRegex(ConfigError, message):
                read(text)
        with self.assertRaisesRegex(ConfigError, "short_side is 100; a crop of 224 pixels"):
            read("short_side=100").framed(224)

    def test_clip_is_that_of_openai_and_inception_is_minus_one_to_one(self):
        clip = read("clip")
        self.assertEqual(clip.mean, (0.48145466, 0.4578275, 0.40821073))
        self.assertEqual(clip.deviation, (0.26862954, 0.26130258, 0.27577711))
        self.assertEqual((clip.scale, clip.order), (1.0, "rgb"))
        self.assertEqual((clip.interpolation, clip.crop), ("bicubic", 1.0))
        self.assertEqual(read("inception"), read("-1-1"))

    def test_sizes_in_pixels_follow_from_the_share_of_the_crop(self):
        self.assertEqual(read("imagenet").framed(224).short_side, 256)
        self.assertEqual(read("clip").framed(224).short_side, 224)
        self.assertEqual(read("imagenet,crop=0").framed(224).short_side, 0)
        self.assertEqual(read("imagenet,short_side=300").framed(224).short_side, 300)


class PrepareTest(tf.test.TestCase):
    images = tf.constant(np.random.default_rng(0).random((2, 4, 4, 3)), tf.float32)

    def test_presets_are_those_of_keras_applications(self):
        from dc_tf import keras

        modes = {"caffe": "caffe", "-1-1": "tf", "imagenet": "torch"}
        preprocess = keras.applications.imagenet_utils.preprocess_input
        for preset, mode in modes.items():
            expected = preprocess(255 * self.images.numpy(), mode=mode)
            found = prepare(self.images, read(preset), tf.float32, False)
            self.assertAllClose(found, expected, rtol=1e-5, atol=1e-4)

    def test_channels_may_come_first_and_integers_are_rounded(self):
        found = prepare(self.images, read("0-255"), tf.uint8, True)
        self.assertEqual((found.shape, found.dtype), ((2, 3, 4, 4), tf.uint8))
        expected = np.rint(255 * self.images.numpy()).transpose(0, 3, 1, 2)
        self.assertAllEqual(found, expected)


if __name__ == "__main__":
    tf.test.main()
