"""Each format is loaded by its own library, in a process without this package, and compared."""

import functools
import json
import os
import shutil
import tempfile
import unittest

import numpy as np
import other_process
import pytest
import tensorflow as tf
from libraries import INSTALL, KERAS_3, LIBRARIES, OURS, PREPARED, has

from dc_tf import keras
from dc_tf.errors import ConfigError
from dc_tf.exporting.file_formats import ENDINGS, write_file
from dc_tf.exporting.fold_sobel import fold
from dc_tf.exporting.safetensors_file import write_safetensors
from dc_tf.exporting.saved_model import export_saved_model
from dc_tf.exporting.torch_checkpoint import read_checkpoint
from dc_tf.exporting.torch_models import check_shape, timm_state, torchvision_state
from dc_tf.exporting.torch_weights import from_torch
from dc_tf.exporting.weights import assign_weights
from dc_tf.nn.trunks import make_trunk

SIDE = 32
# (kind, settings, form of Sobel)
SMALL = (
    ("vgg16", {"width": 1 / 16, "fc": 12}, "layer"),
    ("vgg16", {"width": 1 / 16, "fc": 12}, "folded"),
    ("resnet50", {"width": 1 / 16}, "layer"),
    ("resnet18", {"width": 1 / 16, "sobel": False, "stem": "small"}, "layer"),
)
PADDED = "x = torch.nn.functional.pad(x, (1, 1, 1, 1))"


def images(count=2, side=SIDE, seed=0):
    return np.random.default_rng(seed).random((count, side, side, 3), np.float32)


@functools.cache
def network(kind, settings, side=SIDE):
    """A network whose running statistics are not the initial ones."""
    trunk = make_trunk(kind, resolution=side, **dict(settings), seed=3).built_at_resolution()
    trunk(images(8 if side == SIDE else 2, side, seed=1), training=True)
    return trunk


def of(kind, settings, side=SIDE):
    return network(kind, tuple(settings.items()), side)


class LibrariesTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)

    def path(self, name):
        return os.path.join(self.root, name)


class KerasTest(LibrariesTest):
    @pytest.mark.slow
    @pytest.mark.numeric
    def test_keras_3_loads_the_model_and_has_its_layers(self):
        self.check_loading(SMALL[1])

    @pytest.mark.extended
    def test_keras_3_loads_models_of_other_forms(self):
        self.check_loading(SMALL[0], *SMALL[2:])

    @pytest.mark.extended
    @unittest.skipUnless(has("torch"), "pip install -c constraints.txt torch")
    def test_keras_3_loads_them_without_tensorflow(self):
        self.check_loading(*SMALL, backend="torch")

    @pytest.mark.extended
    @unittest.skipUnless(has("jax"), "pip install jax")
    def test_keras_3_loads_them_with_jax(self):
        self.check_loading(*SMALL, backend="jax")

    def check_loading(self, *forms, backend="tensorflow"):
        pytest.importorskip("keras", "3")
        for number, (kind, settings, form) in enumerate(forms):
            trunk, path = of(kind, settings), self.path(f"{number}.keras")
            write_file(trunk, path, "keras3", form)
            program = f"""
import keras
model = keras.saving.load_model({path!r})
found["units"], found["bytes"] = model.predict(given["x"]), model.predict(255 * given["x"])
found["refused"] = model.predict(3 * given["x"] - 1)
found["names"] = [layer.name for layer in model.layers]
"""
            forbidden = ("dc_tf", "tf_keras") if backend == "tensorflow" else OURS
            own = KERAS_3 | {"KERAS_BACKEND": backend}
            found = other_process.run(program, forbidden, own, x=images())
            expected = trunk(images())[trunk.feature_layer]
            self.assertAllClose(found["units"], expected, atol=1e-4)
            self.assertAllClose(found["bytes"], expected, atol=1e-4)
            self.assertTrue(np.isnan(found["refused"]).all())
            name = "block5_conv3_relu" if kind == "vgg16" else "conv5_block2_out"
            self.assertIn(name, found["names"])

    @pytest.mark.slow
    def test_the_model_of_keras_3_learns_from_its_first_convolution_on(self):
        pytest.importorskip("keras", "3")
        path, modern = self.path("a.keras"), keras.keras_3()
        write_file(of(*SMALL[3][:2]), path, "keras3", input_range="255")
        model = modern.saving.load_model(path)
        before = model.get_layer("conv1_conv").get_weights()[0]
        model.compile("sgd", "mse")
        targets = np.ones([8, model.output_shape[-1]])
        model.fit(np.round(255 * images(8)), targets, batch_size=8, verbose=0)
        self.assertNotAllClose(model.get_layer("conv1_conv").get_weights()[0], before, rtol=0)
        self.assertTrue(np.isnan(model(images())).all())  # in [0, 1], of a model for 0 to 255

    @pytest.mark.extended
    def test_a_layer_of_keras_3_takes_the_saved_model(self):
        pytest.importorskip("keras", "3")
        trunk, path = of(*SMALL[0][:2]), self.path("model")
        export_saved_model(trunk, path)
        program = f"""
import keras
found |= keras.layers.TFSMLayer({path!r})(given["x"])
"""
        found = other_process.run(program, ("dc_tf", "tf_keras"), KERAS_3, x=images())
        for layer, values in trunk(images()).items():
            self.assertAllClose(found[layer], values, atol=1e-4)


class TFLiteTest(LibrariesTest):
    @pytest.mark.slow
    def test_litert_has_the_features_of_all_layers(self):
        self.check_features(SMALL[3])

    @pytest.mark.extended
    @pytest.mark.numeric
    def test_litert_has_those_of_other_forms(self):
        self.check_features(*SMALL[:3])

    def check_features(self, *forms):
        pytest.importorskip("ai_edge_litert", reason="pip install ai-edge-litert")
        for kind, settings, form in forms:
            trunk, path = of(kind, settings), self.path(f"{kind}_{form}.tflite")
            write_file(trunk, path, "tflite", form)
            program = f"""
from ai_edge_litert.interpreter import Interpreter
runner = Interpreter(model_path={path!r}).get_signature_runner("serving_default")
found |= runner(images=given["x"])
"""
            found = other_process.run(program, OURS, x=images())
            expected = trunk(images())
            self.assertCountEqual(found, expected)
            for layer, values in expected.items():
                self.assertAllClose(found[layer], values, atol=1e-4)

    @pytest.mark.extended
    def test_bytes_are_the_input_where_asked_for(self):
        trunk, path = of(*SMALL[2][:2]), self.path("bytes.tflite")
        write_file(trunk, path, "tflite", input_range="255")
        pixels = np.round(255 * images()).astype(np.uint8)
        found = tf.lite.Interpreter(path).get_signature_runner()(images=pixels)
        expected = trunk(pixels / np.float32(255))["pool"]
        self.assertAllClose(found["pool"], expected, atol=1e-4)


class TorchTest(LibrariesTest):
    """Networks of the paper's size, which is theirs."""

    RGB = {"sobel": False}

    def compare(self, kind, loaders, change, side, activation=tf.identity):
        """Compares features with those of other libraries, loaded in one process.

        Args:
            kind: ours.
            loaders: {format: lines that load the file PATH as `model`}.
            change: lines after that.
            activation: from our features to theirs.
        """
        # Not kept: VGG-16 has half a gigabyte of weights.
        trunk = network.__wrapped__(kind, tuple(self.RGB.items()), side)
        program = PREPARED
        for form, loader in loaders.items():
            path = self.path(f"mine.{form}{ENDINGS[form]}")
            write_file(trunk, path, form)
            program += f"{loader}\nmodel.eval()\n{change}\n".replace("PATH", repr(path))
            program += f"found[{form!r}] = model(x).detach().numpy()\n"
        found = other_process.run(program, OURS, images=images(side=side))
        expected = activation(trunk(images(side=side))[trunk.feature_layer])
        scale = float(tf.reduce_max(tf.abs(expected)))
        self.assertGreater(scale, 0.01)
        for form in loaders:
            self.assertAllClose(found[form], expected, atol=1e-4 * max(1.0, scale), msg=form)

    def torchvision(self, kind):
        return {
            "torchvision": f"""
import torchvision
model = torchvision.models.{kind}()
model.load_state_dict(torch.load(PATH, weights_only=True), strict=True)
model.fc = torch.nn.Identity()"""
        }

    def timm(self, kind):
        return {
            "safetensors": f"""
import timm
from safetensors.torch import load_file
model = timm.create_model("{kind}", num_classes=0)
model.load_state_dict(load_file(PATH), strict=True)"""
        }

    @unittest.skipUnless(LIBRARIES, INSTALL)
    @pytest.mark.slow
    def test_torchvision_and_timm_load_a_resnet(self):
        loaders = self.torchvision("resnet18") | self.timm("resnet18")
        self.compare("resnet18", loaders, "", 64)

    @pytest.mark.extended
    @unittest.skipUnless(LIBRARIES, INSTALL)
    def test_they_load_a_deeper_resnet(self):
        loaders = self.torchvision("resnet50") | self.timm("resnet50")
        self.compare("resnet50", loaders, "", 64)

    @pytest.mark.extended
    @unittest.skipUnless(LIBRARIES, INSTALL)
    def test_torchvision_loads_vgg_16(self):
        change = f"model.classifier = model.classifier[:4]\n{PADDED}"
        self.compare("vgg16", self.torchvision("vgg16_bn"), change, 224)

    @pytest.mark.extended
    @unittest.skipUnless(LIBRARIES, INSTALL)
    def test_timm_loads_vgg_16(self):
        self.compare("vgg16", self.timm("vgg16_bn"), PADDED, 224, tf.nn.relu)

    @pytest.mark.slow
    @unittest.skipUnless(LIBRARIES, INSTALL)
    def test_weights_of_torchvision_have_its_features_here_in_every_layer(self):
        path = self.path("theirs.pth")
        program = f"""{PREPARED}
import torchvision
torch.manual_seed(0)
model = torchvision.models.resnet50(weights=None)
norms = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
for norm in norms:
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    torch.nn.init.normal_(norm.bias, std=0.2)
    norm.momentum = 1.0
with torch.no_grad():
    model(torch.randn(8, 3, 64, 64))
    for norm in norms:  # near the statistics of noise, so that the maps keep their scale
        norm.running_mean += 0.1 * torch.randn_like(norm.running_mean)
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.25)
def keep(name):
    def hook(part, inputs, output):
        found[name] = output.numpy().copy()
    return hook
model.relu.register_forward_hook(keep("conv1"))
for stage in range(1, 5):
    for number, block in enumerate(getattr(model, f"layer{{stage}}"), 1):
        block.register_forward_hook(keep(f"block{{stage}}_{{number}}"))
model.avgpool.register_forward_hook(keep("pool"))
with torch.no_grad():
    model.eval()(x)
torch.save(model.state_dict(), {path!r})
"""
        found = other_process.run(program, OURS, images=images(side=64))
        theirs = from_torch(read_checkpoint(path), 64)
        trunk = make_trunk(theirs.kind, **theirs.settings).built_at_resolution()
        assign_weights(theirs.weights, trunk)
        self.assertEqual(trunk.kind, "resnet50")
        self.assertCountEqual(found, trunk.layer_names)
        for layer, values in trunk(images(side=64)).items():
            expected = found[layer].transpose(0, 2, 3, 1).reshape(values.shape)
            self.assertGreater(np.std(expected), 0.05, layer)
            apart = np.abs(values - expected).max()
            self.assertLess(apart, 1e-4 * max(1.0, np.abs(expected).max()), layer)

    def test_every_key_is_there_and_the_classifier_is_zero(self):
        trunk = of("resnet18", self.RGB, 64)
        state = torchvision_state(trunk)
        self.assertLen(state, 20 * 6 + 2)  # 20 convolutions, each with batch norm of five
        self.assertEqual(state["fc.weight"].shape, (1000, 512))
        self.assertAllEqual(state["fc.weight"], np.zeros([1000, 512]))
        self.assertEqual(state.keys() - timm_state(trunk).keys(), {"fc.weight", "fc.bias"})

    @unittest.skipUnless(has("torch"), "pip install torch")
    @pytest.mark.slow
    def test_networks_of_another_shape_are_refused_with_what_differs(self):
        for kind, settings, side, message in (
            ("resnet18", {"width": 1 / 16}, 32, "7x7 on RGB, and 9x9 with Sobel folded in here"),
            ("vgg16", {"width": 1 / 16, "fc": 12}, 32, "3x3 on RGB, and 5x5 with Sobel folded"),
            ("resnet18", {**self.RGB, "width": 1 / 16}, 32, "width is 1, here 0.0625"),
            ("resnet18", {**self.RGB, "width": 1 / 16, "stem": "small"}, 32, "7x7, here 3x3"),
            ("vgg16", {**self.RGB, "width": 1 / 16, "fc": 12}, 32, "width is 1"),
        ):
            trunk = of(kind, settings, side)
            for form in ("torchvision", "safetensors"):
                path = self.path("a.pth" if form == "torchvision" else "a.safetensors")
                with self.assertRaisesRegex(ConfigError, message):
                    write_file(trunk, path, form)
                self.assertEqual(os.listdir(self.root), [])
        with self.assertRaisesRegex(ConfigError, "9x9 with Sobel folded"):
            check_shape(fold(of("resnet18", {"width": 1 / 16})), "timm")


class SafetensorsTest(LibrariesTest):
    arrays = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "count": np.zeros((), np.int64),
        "half": np.ones([3], np.float16),
    }

    def test_the_file_is_as_the_format_says(self):
        write_safetensors(self.arrays, self.path("a"), {"format": "pt"})
        with open(self.path("a"), "rb") as file:
            content = file.read()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        self.assertEqual(length % 8, 0)
        self.assertEqual(header.pop("__metadata__"), {"format": "pt"})
        for name, array in self.arrays.items():
            start, end = header[name]["data_offsets"]
            own = np.frombuffer(content[8 + length :][start:end], array.dtype)
            self.assertAllEqual(own.reshape(header[name]["shape"]), array)

    @unittest.skipUnless(has("safetensors"), INSTALL)
    def test_the_package_reads_it(self):
        write_safetensors(self.arrays, self.path("a"), {"format": "pt"})
        program = f"""
from safetensors.numpy import load_file
found |= load_file({self.path("a")!r})
"""
        found = other_process.run(program, OURS)
        self.assertCountEqual(found, self.arrays)
        for name, array in self.arrays.items():
            self.assertAllEqual(found[name], array)


if __name__ == "__main__":
    tf.test.main()
