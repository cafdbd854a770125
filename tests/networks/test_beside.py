"""What files beside a network state: read exactly as their own library does, or refused."""

import json
import os
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dc_tf.errors import ConfigError
from dc_tf.networks.beside import stated_beside

VALUES = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3]}
CUT = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}


def square(side):
    return {"size": {"height": side, "width": side}}


def shortest(side):
    return {"size": {"shortest_edge": side}}


class BesideTest(tf.test.TestCase):
    def stated(self, name, content):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        with open(os.path.join(folder, name), "w") as file:
            json.dump(content, file)
        return stated_beside(os.path.join(folder, "model.onnx"))


class TransformersTest(BesideTest):
    def of(self, *contents):
        content = {key: value for one in (VALUES, *contents) for key, value in one.items()}
        found, name = self.stated("preprocessor_config.json", content)
        self.assertEqual(name, "preprocessor_config.json")
        return found

    def assertFrame(self, found, size, short_side):
        framed = found.framed(size)
        self.assertEqual((found.size, framed.short_side), (size, short_side))

    def test_sizes_are_those_of_the_image_processor(self):
        # transformers: models/*/image_processing_*.py
        named = {"image_processor_type": "ConvNextImageProcessor"}
        for contents, size, short_side in (
            ((shortest(256), CUT), 224, 256),
            ((square(384),), 384, 0),
            ((square(224), CUT), 224, 0),
            (({"crop_pct": 0.875}, shortest(224)), 224, 256),
            ((named, {"crop_pct": 0.95}, shortest(224)), 224, 235),
            ((named, shortest(224)), 224, 256),
            ((named, {"crop_pct": 0.875}, shortest(384)), 384, 0),
            (
                ({"image_processor_type": "PoolFormerImageProcessor"}, {"crop_pct": 0.9}, CUT)
                + (shortest(224),),
                224,
                248,
            ),
            (({"size": 224},), 224, 0),
            (({"feature_extractor_type": "CLIPFeatureExtractor", "size": 256}, CUT), 224, 256),
        ):
            self.assertFrame(self.of(*contents), size, short_side)

    def test_values_and_filter(self):
        plain = self.of(square(64), {"rescale_factor": 1 / 255})
        self.assertEqual((plain.scale, plain.order), (1.0, "rgb"))
        self.assertEqual((plain.mean, plain.deviation), ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3)))
        self.assertEqual(plain.interpolation, "bilinear")
        self.assertEqual(self.of(square(64), {"resample": 3}).interpolation, "bicubic")
        clip = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224}
        self.assertEqual(self.of(clip, CUT).interpolation, "bicubic")
        offset = self.of(square(64), {"rescale_factor": 1 / 127.5, "rescale_offset": True})
        self.assertAllClose((offset.scale, *offset.mean), (2.0, 1.5, 1.4, 1.3))
        raw = self.of(square(64), {"do_normalize": False, "do_rescale": False})
        self.assertEqual((raw.scale, raw.mean), (255.0, ()))

    def test_channels_in_the_other_order(self):
        flipped = {"do_flip_channel_order": True, **shortest(288), **CUT}
        found, _ = self.stated("preprocessor_config.json", flipped)
        self.assertEqual((found.order, found.mean, found.short_side), ("bgr", (), 288))

    def test_what_cannot_be_done_is_refused_by_its_key(self):
        typed = {"image_processor_type": "LevitImageProcessor"}
        for content, message in (
            ({"resample": 1}, r"resample 1 \(lanczos\)"),
            ({"resample": 0}, r"resample 0 \(nearest\)"),
            ({"size": {"height": 384, "width": 128}}, "size .*384.*128"),
            ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, "size .*longest_edge"),
            (shortest(224), "size.shortest_edge without do_center_crop"),
            (shortest(200) | CUT, "crop_size 224 of images of 200"),
            (square(256) | CUT, "do_center_crop after a size of 256 x 256"),
            ({**CUT, **shortest(256), "crop_size": {"height": 9, "width": 8}}, "crop_size .*9"),
            ({"size": 256} | CUT, "size 256 with do_center_crop and without image_processor_type"),
            ({"do_pad": True}, "do_pad"),
            ({"do_resize": False}, "do_resize false"),
            ({"do_flip_channel_order": True}, "do_flip_channel_order with image_mean"),
            ({"include_top": True}, "include_top"),
            (typed | shortest(224) | CUT, "LevitImageProcessor"),
        ):
            with self.assertRaisesRegex(ConfigError, f"asks for {message}.* give --preprocessing"):
                self.of(square(224), content)


class ProcessorTest(BesideTest):
    """Image processors of transformers themselves, on one image."""

    def test_values_are_those_of_transformers(self):
        library = pytest.importorskip("transformers")
        pixels = np.random.default_rng(0).integers(0, 256, (13, 19, 3), np.uint8)
        image = Image.fromarray(pixels).resize((300, 201), Image.BICUBIC)
        for name, settings in (
            ("ConvNext", shortest(224) | {"crop_pct": 0.875}),
            ("ConvNext", shortest(224) | {"crop_pct": 0.95, "resample": 3}),
            ("ConvNext", shortest(384) | {"crop_pct": 1.0}),
            ("PoolFormer", {}),
            ("ViT", {}),
            ("Siglip", {}),
            ("CLIP", shortest(256)),
            ("Bit", shortest(256)),
            ("MobileNetV2", {}),
            ("MobileViT", shortest(288)),
            (
                "EfficientNet",
                {"include_top": False, "rescale_offset": True, "rescale_factor": 1 / 127.5}
                | {"resample": 2},
            ),
        ):
            processor = getattr(library, f"{name}ImageProcessor")(**settings)
            folder = tempfile.mkdtemp(dir=self.get_temp_dir())
            processor.save_pretrained(folder)
            found, _ = stated_beside(folder)
            (expected,) = processor(image, return_tensors="np")["pixel_values"]
            self.assertAllClose(prepared(image, found), expected.transpose(1, 2, 0), atol=1e-5)


def prepared(image, how):
    """(size, size, 3): what `Preprocessing` means, by Pillow, which rounds to grey levels."""
    how = how.framed(how.size)
    kernel = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[how.interpolation]
    sides = np.array(image.size)
    new = (how.short_side * sides / sides.min()).astype(int) if how.short_side else [how.size] * 2
    x = np.asarray(image.resize(tuple(int(side) for side in new), kernel)) / 255 * how.scale
    top, left = (np.array(x.shape[:2]) - how.size) // 2
    x = x[top : top + how.size, left : left + how.size] - np.array(how.mean or (0,))
    x /= np.array(how.deviation or (1,))
    return x[..., ::-1] if how.order == "bgr" else x


class TimmTest(BesideTest):
    config = {"mean": [0.5] * 3, "std": [0.2] * 3, "crop_pct": 0.9, "input_size": [3, 224, 224]}

    def of(self, **changes):
        return self.stated("config.json", {"pretrained_cfg": self.config | changes})[0]

    def test_size_crop_and_values(self):
        found = self.of()
        self.assertEqual((found.size, found.short_side), (224, 248))  # rounded down, as timm does
        self.assertEqual((found.deviation, found.interpolation), ((0.2,) * 3, "bicubic"))
        self.assertEqual(self.of(interpolation="bilinear").interpolation, "bilinear")
        self.assertEqual(self.of(crop_mode="squash").framed(224).short_side, 0)

    def test_what_cannot_be_done_is_refused_by_its_key(self):
        for changes, message in (
            ({"interpolation": "lanczos"}, "interpolation lanczos"),
            ({"crop_mode": "border"}, "crop_mode border"),
            ({"input_size": [3, 384, 128]}, "input_size .*384, 128"),
            ({"input_size": [1, 64, 64]}, "input_size .*1, 64"),
        ):
            with self.assertRaisesRegex(ConfigError, f"asks for {message}"):
                self.of(**changes)

    def test_other_files_state_nothing(self):
        self.assertIsNone(self.stated("config.json", {"hidden_size": 3}))
        self.assertIsNone(self.stated("preprocessor_config.json", {"sampling_rate": 16000}))


if __name__ == "__main__":
    tf.test.main()
