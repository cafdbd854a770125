"""The ways in which others load a SavedModel and compile it."""

import atexit
import functools
import os
import shutil
import tempfile
import unittest

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf

from dc_tf.exporting.saved_model import export_saved_model
from dc_tf.nn.vgg16 import LAYERS, VGG16

RESOLUTION = 32
OUT_OF_RANGE = "image values out of range"


def pixels(size=RESOLUTION):
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)


def units(size=RESOLUTION):
    return pixels(size) / np.float32(255)


@functools.cache
def exported():
    """(Folder of a model, the features of `units()` by layer)."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    path = os.path.join(folder, "model")
    trunk = VGG16(width=1 / 16, resolution=RESOLUTION, fc=12).built_at_resolution()
    export_saved_model(trunk, path)
    return path, {name: value.numpy() for name, value in trunk(units()).items()}


class LoadersTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.path, self.expected = exported()


@pytest.mark.slow
@unittest.skipUnless(keras3.__version__.startswith("3"), "Keras 2 has no TFSMLayer")
class Keras3Test(LoadersTest):
    def model(self, shape, dtype, **options):
        layer = keras3.layers.TFSMLayer(self.path, **options)
        inputs = keras3.Input(shape, dtype=dtype)
        return keras3.Model(inputs, layer(inputs))

    @pytest.mark.extended
    def test_both_default_endpoints_take_uint8_and_floats_of_any_size(self):
        for options in ({}, {"call_endpoint": "serving_default"}):
            for shape in ([RESOLUTION, RESOLUTION, 3], [None, None, 3]):
                for dtype, images in (("uint8", pixels()), ("float32", units())):
                    found = self.model(shape, dtype, **options).predict(images, verbose=0)
                    self.assertAllClose(found["fc7"], self.expected["fc7"], atol=1e-4)
                    self.assertCountEqual(found, LAYERS)

    def test_other_sizes_are_resized(self):
        found = self.model([None, None, 3], "uint8").predict(pixels(48), verbose=0)
        resized = tf.image.resize(pixels(48), [RESOLUTION] * 2, antialias=True) / 255
        same = self.model([None, None, 3], "float32").predict(resized, verbose=0)
        self.assertAllClose(found["fc7"], same["fc7"], atol=1e-4)

    def test_floats_out_of_range_are_refused(self):
        with self.assertRaisesRegex(tf.errors.InvalidArgumentError, OUT_OF_RANGE):
            self.model([None, None, 3], "float32").predict(units() * 255, verbose=0)

    def test_fine_tuning_trains_all_weights_and_running_statistics_also_with_xla(self):
        trunk = self.model([RESOLUTION, RESOLUTION, 3], "uint8", call_training_endpoint="train")
        model = keras3.Model(trunk.inputs, keras3.layers.Dense(2)(trunk.outputs[-1]))
        model.compile("sgd", "mse", jit_compile=True)
        before = [np.array(weight) for weight in model.weights]
        model.fit(pixels(), np.ones([2, 2]), verbose=0)
        self.assertLen(model.trainable_weights, 13 * 4 + 4 + 2)
        self.assertLen(before, 13 * 6 + 4 + 2)
        for weight, old in zip(model.weights, before, strict=True):
            self.assertNotAllClose(np.array(weight), old, msg=weight.name, rtol=0, atol=0)


class CompilersTest(LoadersTest):
    @pytest.mark.slow
    def test_xla_compiles_the_model_at_any_size(self):
        model = tf.saved_model.load(self.path)
        compiled = tf.function(model, jit_compile=True, autograph=False)
        for images in (pixels(), units()):
            for layer, features in compiled(tf.constant(images)).items():
                self.assertAllClose(features, self.expected[layer], atol=1e-4)
        resized = tf.image.resize(pixels(48), [RESOLUTION] * 2, antialias=True) / 255
        found, same = compiled(tf.constant(pixels(48)))["fc7"], model(resized)["fc7"]
        self.assertAllClose(found, same, atol=1e-4)
        # XLA has no errors of its own.
        self.assertTrue(np.isnan(compiled(tf.constant(units() * 255))["fc7"]).all())

    @pytest.mark.slow
    def test_xla_compiles_the_native_signatures(self):
        model = tf.saved_model.load(self.path)
        for name, images in (("serving_native", pixels()), ("serving_native_float", units())):
            compiled = tf.function(model.signatures[name], jit_compile=True, autograph=False)
            found = compiled(images=tf.constant(images))
            self.assertAllClose(found["fc7"], self.expected["fc7"], atol=1e-4)

    @pytest.mark.extended
    def test_tflite_converts_the_native_signatures_without_other_kernels(self):
        for name, images in (("serving_native", pixels()), ("serving_native_float", units())):
            converter = tf.lite.TFLiteConverter.from_saved_model(self.path, signature_keys=[name])
            self.assertEqual(converter.target_spec.supported_ops, {tf.lite.OpsSet.TFLITE_BUILTINS})
            features = self.interpreted(converter.convert(), name)
            for layer, found in features(images=images).items():
                self.assertAllClose(found, self.expected[layer], atol=1e-4)

    @pytest.mark.slow
    def test_tflite_resizes_with_the_default_signature(self):
        converter = tf.lite.TFLiteConverter.from_saved_model(
            self.path, signature_keys=["serving_default"]
        )
        features = self.interpreted(converter.convert(), "serving_default")
        self.assertAllClose(features(images=pixels())["fc7"], self.expected["fc7"], atol=1e-4)
        expected = tf.saved_model.load(self.path)(pixels(48))["fc7"]
        self.assertAllClose(features(images=pixels(48))["fc7"], expected, atol=1e-4)

    def interpreted(self, content, name):
        interpreter = tf.lite.Interpreter(model_content=content)
        return interpreter.get_signature_runner(name)


if __name__ == "__main__":
    tf.test.main()
