"""Single-file formats have the network's features, and load without this package if documented."""

import importlib.util
import os
import subprocess
import sys
import unittest
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from dc_tf import keras
from dc_tf.errors import ConfigError
from dc_tf.exporting.file_formats import check_file, write_file
from dc_tf.exporting.fold_sobel import fold
from dc_tf.nn.trunks import make_trunk
from dc_tf.nn.vgg16 import LAYERS, VGG16

pytestmark = pytest.mark.tf215

RESOLUTION = 32
SETTINGS = dict(width=1 / 16, resolution=RESOLUTION, fc=12)
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("tf2onnx", "onnxruntime"))


def network(sobel=True):
    """A network whose running statistics differ from the initial ones."""
    trunk = VGG16(**SETTINGS, sobel=sobel, seed=3).built_at_resolution()
    trunk(images(8, seed=1), training=True)
    return trunk


def images(n=3, seed=0):
    return np.random.default_rng(seed).random((n, RESOLUTION, RESOLUTION, 3), np.float32)


class FileFormatsTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.trunk = network()

    def path(self, name):
        return os.path.join(self.get_temp_dir(), name)

    @pytest.mark.slow
    @pytest.mark.numeric
    def test_weights_load_into_a_new_network_of_the_same_settings(self):
        for sobel, folded, name in (("layer", False, "a"), ("folded", True, "b")):
            path = self.path(f"{name}.weights.h5")
            write_file(self.trunk, path, "keras_weights", sobel)
            other = VGG16(**SETTINGS, folded=folded, seed=9).built_at_resolution()
            self.assertNotAllClose(other(images())["fc7"], self.trunk(images())["fc7"])
            other.load_weights(path)
            for layer, features in self.trunk(images()).items():
                self.assertAllClose(other(images())[layer], features, atol=1e-4)
        self.assertCountEqual(os.listdir(self.get_temp_dir()), ["a.weights.h5", "b.weights.h5"])

    @pytest.mark.numeric
    @pytest.mark.merge
    @pytest.mark.slow
    def test_the_keras_model_has_the_features_and_names_that_are_promised(self):
        rgb = network(sobel=False)
        for trunk, sobel in ((self.trunk, "layer"), (self.trunk, "folded"), (rgb, "layer")):
            path = self.path("a.keras")
            write_file(trunk, path, "keras", sobel, overwrite=True)
            model = keras.models.load_model(path)
            self.assertAllClose(model(images()), trunk(images())["fc7"], atol=1e-4)
            names = {"conv1": "block1_conv1_relu", "conv13": "block5_conv3_relu", "fc6": "fc1"}
            for layer, name in names.items():
                part = keras.Model(model.input, model.get_layer(name).output)
                self.assertAllClose(part(images()), trunk(images())[layer], atol=1e-4)
            sizes = enumerate((2, 2, 3, 3, 3), 1)
            convolutions = [f"block{b}_conv{c}" for b, size in sizes for c in range(1, size + 1)]
            own = [layer.name for layer in model.layers]
            self.assertContainsSubset([*convolutions, "fc1", "fc2", "block5_pool"], own)

    @pytest.mark.extended
    @pytest.mark.numeric
    def test_the_keras_model_of_a_resnet_has_its_features_and_learns(self):
        for sobel, form in ((True, "layer"), (True, "folded"), (False, "layer")):
            settings = dict(width=1 / 16, resolution=RESOLUTION, sobel=sobel)
            trunk = make_trunk("resnet50", **settings, seed=3).built_at_resolution()
            trunk(images(8, seed=1), training=True)
            path = self.path("a.keras")
            write_file(trunk, path, "keras", form, overwrite=True)
            model = keras.models.load_model(path)
            expected = trunk(images())
            names = {"conv1": "conv1_relu", "block2_1": "conv3_block1_out", "pool": "avg_pool"}
            for layer, name in names.items():
                part = keras.Model(model.input, model.get_layer(name).output)
                self.assertAllClose(part(images()), expected[layer], atol=1e-4)
            before = model.get_layer("conv1_conv").get_weights()[0]
            model.compile(keras.optimizers.SGD(0.01), "mse")
            model.fit(images(8), np.ones([8, trunk.feature_dim]), batch_size=8, verbose=0)
            self.assertNotAllClose(model.get_layer("conv1_conv").get_weights()[0], before, rtol=0)

    @pytest.mark.slow
    def test_the_keras_model_learns_from_conv1_on_and_keeps_sobel(self):
        path = self.path("a.keras")
        write_file(self.trunk, path, "keras")
        trunk = keras.models.load_model(path)
        model = keras.Sequential([trunk, keras.layers.ReLU(), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(0.01), "mse")
        before = {layer.name: layer.get_weights() for layer in trunk.layers}
        model.fit(images(8), np.ones([8, 2]), batch_size=8, verbose=0)
        for name in ("block1_conv1", "block1_conv1_bn", "block5_conv3", "fc2"):
            self.assertNotAllClose(trunk.get_layer(name).get_weights()[0], before[name][0], rtol=0)
        for name in ("grey", "sobel"):
            self.assertAllEqual(trunk.get_layer(name).get_weights()[0], before[name][0])

    @pytest.mark.slow
    def test_a_process_without_dc_tf_loads_the_keras_model(self):
        path = self.path("a.keras")
        write_file(self.trunk, path, "keras", "folded")
        program = f"""
import os, sys
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np, tf_keras
model = tf_keras.models.load_model({path!r})
x = np.random.default_rng(0).random((3, {RESOLUTION}, {RESOLUTION}, 3), np.float32)
np.save({path!r} + ".npy", model(x))
assert "dc_tf" not in sys.modules
"""
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        subprocess.run(
            [sys.executable, "-c", program], check=True, cwd="/", env=environment, timeout=120
        )
        found = np.load(path + ".npy", allow_pickle=False)
        self.assertAllClose(found, self.trunk(images())["fc7"], atol=1e-4)

    @pytest.mark.numeric
    @unittest.skipUnless(HAS_ONNX, "pip install -c constraints.txt tf2onnx onnxruntime")
    @pytest.mark.slow
    def test_onnxruntime_finds_the_features_of_the_network(self):
        import onnxruntime

        for sobel in ("layer", "folded"):
            path = self.path(f"{sobel}.onnx")
            write_file(self.trunk, path, "onnx", sobel)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            names = [output.name for output in session.get_outputs()]
            self.assertCountEqual(names, LAYERS)
            for count in (1, 3):
                expected = self.trunk(images(count))
                for name, found in zip(
                    names, session.run(None, {"images": images(count)}), strict=True
                ):
                    self.assertAllClose(found, expected[name], atol=1e-4)

    def test_what_cannot_be_written_is_refused_first(self):
        there = self.path("there.keras")
        write_file(self.trunk, there, "keras")
        for output, form, message in (
            (self.path("a.h5"), "keras_weights", "ends in .weights.h5"),
            (there, "keras", "--overwrite"),
            (self.path("absent/a.keras"), "keras", "does not exist"),
        ):
            with self.assertRaisesRegex(ConfigError, message):
                check_file(output, form, overwrite=False)
        with self.assertRaisesRegex(ConfigError, "no Sobel stage"):
            write_file(fold(self.trunk), self.path("b.keras"), "keras", "folded")
        with mock.patch.dict(sys.modules, {"tf2onnx": None}):
            with self.assertRaisesRegex(ConfigError, "pip install"):
                check_file(self.path("a.onnx"), "onnx", overwrite=False)

    def test_a_failure_leaves_nothing_and_keeps_what_was_there(self):
        path = self.path("a.weights.h5")
        write_file(self.trunk, path, "keras_weights")
        with open(path, "rb") as f:
            before = f.read()
        with mock.patch.object(os, "replace", side_effect=OSError):
            with self.assertRaises(OSError):
                write_file(self.trunk, path, "keras_weights", "folded", overwrite=True)
        self.assertEqual(os.listdir(self.get_temp_dir()), ["a.weights.h5"])
        with open(path, "rb") as f:
            self.assertEqual(f.read(), before)


if __name__ == "__main__":
    tf.test.main()
