"""Every format finds the same features of the same picture, or refuses it."""

import importlib.util
import os
import unittest

import numpy as np
import pytest
import tensorflow as tf

from dc_tf import keras
from dc_tf.errors import ConfigError
from dc_tf.exporting.file_formats import write_file
from dc_tf.exporting.input_range import AUTO, BYTES, UNIT, checked_range, of_floats, of_typed
from dc_tf.exporting.saved_model import export_saved_model
from dc_tf.nn.vgg16 import VGG16

RESOLUTION = 32
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("tf2onnx", "onnxruntime"))
OUT_OF_RANGE = "image values out of range; this model takes"


def pixels(n=2):
    return np.random.default_rng(0).integers(0, 256, (n, RESOLUTION, RESOLUTION, 3), np.uint8)


def units(n=2):
    return pixels(n) / np.float32(255)


def floats(n=2):
    return pixels(n).astype(np.float32)


def unusable():
    """{name: float images that no range allows}."""
    return {
        "NaN": np.where(units() < 0.01, np.nan, units()),
        "infinite": np.where(units() < 0.01, np.inf, units()),
        "normalised": units() * 4 - 2,
        "16 bits": floats() * 257,
    }


class ValuesTest(tf.test.TestCase):
    def assert_refused(self, function, images, input_range):
        with self.assertRaisesRegex(tf.errors.InvalidArgumentError, OUT_OF_RANGE):
            function(tf.constant(images), input_range)

    def test_integers_are_bytes_of_any_type(self):
        for dtype in (tf.uint8, tf.int32, tf.int64):
            self.assertAllClose(of_typed(tf.cast(pixels(), dtype), AUTO), units())
        for wrong in (-1, 256):
            self.assert_refused(of_typed, pixels().astype(np.int32) * 0 + wrong, AUTO)

    def test_floats_of_any_precision_are_in_the_unit_range(self):
        for dtype in (tf.float16, tf.bfloat16, tf.float32, tf.float64):
            self.assertAllClose(of_typed(tf.cast(units(), dtype), AUTO), units(), atol=4e-3)
        self.assert_refused(of_typed, floats(), AUTO)
        self.assert_refused(of_typed, units() + 0.01, AUTO)

    def test_a_stated_range_of_bytes_refuses_the_unit_range(self):
        for function in (of_typed, of_floats):
            self.assertAllClose(function(tf.constant(floats()), BYTES), units())
            self.assert_refused(function, units(), BYTES)
            black = np.zeros([2, RESOLUTION, RESOLUTION, 3], np.float32)
            black[0, 0] = 1  # of 255
            self.assertAllClose(function(tf.constant(black), BYTES), black / 255)

    def test_where_the_type_is_lost_each_image_is_read_by_its_own_values(self):
        mixed = np.concatenate([units(), floats()])
        self.assertAllClose(of_floats(tf.constant(mixed), AUTO), np.concatenate([units()] * 2))
        self.assert_refused(of_floats, floats(), UNIT)
        self.assertAllClose(of_floats(tf.constant(units()), UNIT), units())

    def test_values_just_above_one_are_not_taken_for_bytes(self):
        for value in (1.01, 1.9):
            image = np.where(units() == units().max(), np.float32(value), units())
            self.assert_refused(of_floats, image, AUTO)

    def test_what_is_in_no_range_is_refused_in_all(self):
        for images in unusable().values():
            for input_range in (AUTO, UNIT, BYTES):
                self.assert_refused(of_typed, images, input_range)
                self.assert_refused(of_floats, images, input_range)

    def test_one_bad_image_does_not_hide_behind_good_ones(self):
        images = np.concatenate([units(8), np.full_like(units(1), np.nan)])
        self.assert_refused(of_typed, images, AUTO)

    def test_an_empty_batch_stays_empty(self):
        none = tf.zeros([0, RESOLUTION, RESOLUTION, 3])
        for input_range in (AUTO, UNIT, BYTES):
            self.assertEqual(of_floats(none, input_range).shape, none.shape)

    def test_gradients_reach_the_images(self):
        images = tf.constant(units())
        with tf.GradientTape() as tape:
            tape.watch(images)
            total = tf.reduce_sum(of_typed(images, AUTO))
        self.assertAllClose(tape.gradient(total, images), tf.ones_like(images))

    def test_a_wrong_range_is_named(self):
        self.assertEqual(checked_range(255), BYTES)
        with self.assertRaisesRegex(ConfigError, "--input_range is '0-1'; use one of auto, 1, 255"):
            checked_range("0-1")


@pytest.mark.slow
class FormatsTest(tf.test.TestCase):
    """All formats, against the network itself."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.trunk = VGG16(width=1 / 16, resolution=RESOLUTION, fc=12).built_at_resolution()
        cls.expected = cls.trunk(units())["fc7"]

    def path(self, name):
        return os.path.join(self.get_temp_dir(), name)

    def check(self, function, accepted, refused=()):
        for images in accepted:
            self.assertAllClose(function(images), self.expected, atol=1e-4)
        for images in (*refused, *unusable().values()):
            with self.assertRaisesRegex(tf.errors.InvalidArgumentError, OUT_OF_RANGE):
                function(images.astype(np.float32))

    def saved_model(self, **options):
        export_saved_model(self.trunk, self.path("model"), overwrite=True, **options)
        return tf.saved_model.load(self.path("model"))

    def keras_model(self, **options):
        write_file(self.trunk, self.path("a.keras"), "keras", overwrite=True, **options)
        return keras.models.load_model(self.path("a.keras"))

    def onnx(self, **options):
        import onnxruntime

        write_file(self.trunk, self.path("a.onnx"), "onnx", overwrite=True, **options)
        return onnxruntime.InferenceSession(self.path("a.onnx"), providers=["CPUExecutionProvider"])

    def test_saved_model(self):
        model = self.saved_model()
        self.check(lambda x: model(x)["fc7"], [pixels(), units()], [floats()])
        with self.assertRaisesRegex(tf.errors.InvalidArgumentError, OUT_OF_RANGE):
            model(floats(), training=True)

    def test_saved_model_of_bytes(self):
        model = self.saved_model(input_range=BYTES)
        self.check(lambda x: model(x)["fc7"], [pixels(), floats()], [units()])

    def test_a_frozen_graph_of_each_signature(self):
        from tensorflow.python.framework import convert_to_constants

        model = self.saved_model()
        for name, images in (("serving_default", pixels()), ("serving_float", units())):
            signature = model.signatures[name]
            frozen = convert_to_constants.convert_variables_to_constants_v2(signature)
            outputs = [tensor for tensor in frozen(tf.constant(images)) if tensor.shape == (2, 12)]
            expected = self.trunk(units())
            for layer in ("fc6", "fc7"):
                errors = [np.abs(tensor - expected[layer]).max() for tensor in outputs]
                self.assertLess(min(errors), 1e-4, layer)
        with self.assertRaisesRegex(tf.errors.InvalidArgumentError, OUT_OF_RANGE):
            frozen(tf.constant(floats()))

    def test_keras(self):
        model = self.keras_model()
        self.check(model, [pixels(), units(), floats()])
        self.check(lambda x: model.predict(x, verbose=0), [pixels(), units()])

    def test_keras_of_a_stated_range(self):
        self.check(self.keras_model(input_range=UNIT), [units()], [floats()])
        self.check(self.keras_model(input_range=BYTES), [pixels(), floats()], [units()])

    def test_keras_as_a_layer_of_another_model(self):
        inputs = keras.layers.Input([RESOLUTION, RESOLUTION, 3], dtype="uint8")
        outer = keras.Model(inputs, self.keras_model()(inputs))
        self.assertAllClose(outer.predict(pixels(), verbose=0), self.expected, atol=1e-4)

    @unittest.skipUnless(HAS_ONNX, "pip install -c constraints.txt tf2onnx onnxruntime")
    def test_onnx(self):
        def features(images):
            return session.run(["fc7"], {"images": images})[0]

        session = self.onnx()
        for images in (units(), floats()):
            self.assertAllClose(features(images), self.expected, atol=1e-4)
        for images in unusable().values():  # ONNX has no errors of its own
            self.assertTrue(np.isnan(features(images.astype(np.float32))).any(1).all())
        session = self.onnx(input_range=BYTES)
        self.assertAllClose(features(pixels()), self.expected, atol=1e-4)
        with self.assertRaisesRegex(Exception, "expected: .*uint8"):
            features(units())


if __name__ == "__main__":
    tf.test.main()
