"""One run, exported by the command in every format, has its features in every library."""

import contextlib
import importlib.util
import io
import os
import tempfile
import unittest

import numpy as np
import other_process
import pytest
import runs
import tensorflow as tf
import workers
from libraries import INSTALL, KERAS_3, LIBRARIES, OURS, PREPARED

from dc_tf.commands.main import DONE, main
from dc_tf.evaluation.models import open_model
from dc_tf.exporting.file_formats import ENDINGS

SIDE = 32
# Of torchvision's shape, so that its models load the weights.
MODEL = {"trunk": "resnet18", "sobel": False, "resolution": SIDE}
RESNET = """
model.eval()
found["units"] = model(x).detach().numpy()
"""
# {format: (modules that must not be there, environment, program)}.
PROGRAMS = {
    "saved_model": (
        ("dc_tf",),
        {},
        """
import tensorflow as tf
found["units"] = tf.saved_model.load(PATH)(given["images"])["pool"].numpy()
""",
    ),
    "keras3": (
        ("dc_tf", "tf_keras"),
        KERAS_3,
        """
import keras
found["units"] = keras.saving.load_model(PATH).predict(given["images"])
""",
    ),
    "torchvision": (
        OURS,
        {},
        f"""{PREPARED}
import torchvision
model = torchvision.models.resnet18()
model.load_state_dict(torch.load(PATH, weights_only=True), strict=True)
model.fc = torch.nn.Identity()
{RESNET}""",
    ),
    "safetensors": (
        OURS,
        {},
        f"""{PREPARED}
import timm
from safetensors.torch import load_file
model = timm.create_model("resnet18", num_classes=0)
model.load_state_dict(load_file(PATH), strict=True)
{RESNET}""",
    ),
    "onnx": (
        OURS,
        {},
        """
import onnxruntime
session = onnxruntime.InferenceSession(PATH)
found["units"], = session.run(["pool"], {"images": given["images"]})
""",
    ),
    "tflite": (
        OURS,
        {},
        """
from ai_edge_litert.interpreter import Interpreter
runner = Interpreter(model_path=PATH).get_signature_runner("serving_default")
found["units"] = runner(images=given["images"])["pool"]
""",
    ),
}


@pytest.mark.extended
@unittest.skipUnless(LIBRARIES, INSTALL)
@unittest.skipUnless(importlib.util.find_spec("onnxruntime"), "pip install onnxruntime tf2onnx")
class FormatsTest(tf.test.TestCase):
    def test_every_library_finds_the_features_of_the_run(self):
        root = tempfile.mkdtemp(dir=self.get_temp_dir())
        run = os.path.join(root, "run")
        settings = runs.settings(runs.make_data(root), model=MODEL)
        workers.on_cluster(1, runs.train, settings, run)
        images = np.random.default_rng(0).random((2, SIDE, SIDE, 3), np.float32)
        expected = open_model(run).trunk(images)["pool"].numpy()
        scale = np.abs(expected).max()
        for name, (forbidden, environment, program) in PROGRAMS.items():
            with self.subTest(format=name):
                path = os.path.join(root, f"{name}{ENDINGS.get(name, '')}")
                self.export(run, path, name)
                found = other_process.run(
                    program.replace("PATH", repr(path)), forbidden, environment, images=images
                )
                self.assertAllClose(found["units"], expected, atol=1e-4 * max(1.0, scale))

    def export(self, run, path, form):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = main(["export", f"--workdir={run}", f"--output={path}", f"--format={form}"])
        self.assertEqual(code, DONE)


if __name__ == "__main__":
    tf.test.main()
