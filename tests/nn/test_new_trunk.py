"""A network that a user adds, by one class and one line, as the handbook says."""

import contextlib
import io
import json
import os
import sys
import tempfile
import types
from unittest import mock

import numpy as np
import pytest
import runs
import tensorflow as tf

from dc_tf.commands.main import DONE, WRONG_USAGE, main
from dc_tf.evaluation.models import open_model
from dc_tf.nn import resnet
from dc_tf.nn.trunks import SMALL, TRUNKS, Listing


class ResNet10(resnet.ResNet):
    """A residual network of one block in each stage."""

    kind = "resnet10"
    title = "ResNet-10"
    block = resnet.Basic
    depths = (1, 1, 1, 1)
    map_names = ("conv1", *(f"block{stage}_1" for stage in range(1, 5)))
    layer_names = (*map_names, "pool")
    copies_layer = "block2_1"


MODEL = {"trunk": "resnet10", "stem": "small", "width": 1 / 16, "resolution": 32}


@pytest.mark.slow
class NewTrunkTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        module = types.ModuleType("dc_tf.nn.resnet10")
        module.ResNet10 = ResNet10
        line = {"resnet10": Listing("resnet10.ResNet10", {SMALL: 8}, 512)}
        self.enter_context(mock.patch.dict(sys.modules, {module.__name__: module}))
        self.enter_context(mock.patch.dict(TRUNKS, line))
        self.enter_context(mock.patch.dict(os.environ, {"TF_CONFIG": ""}))
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name

    def call(self, *flags, code=DONE):
        """The JSON result of a command; with another code, what it says on stderr."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            found = main(list(flags))
        self.assertEqual(found, code, err.getvalue()[-3000:])
        return err.getvalue() if code else json.loads(out.getvalue().splitlines()[-1])

    def test_it_is_planned_trained_exported_and_measured(self):
        data = runs.make_data(self.root)
        run, model = (os.path.join(self.root, name) for name in ("run", "model"))
        settings = json.dumps(runs.settings(data, model=MODEL))
        train = ("train", f"--params_override={settings}", f"--workdir={run}")
        planned = self.call(*train, "--dry_run", "--nomeasure")
        self.call(*train)
        trunk = open_model(run).trunk
        weights = sum(v.shape.num_elements() for v in trunk.trainable_variables)
        of_head = (trunk.feature_dim + 1) * 4  # rotations
        self.assertEqual(planned["stages"][0]["weights"], weights + of_head)
        for kind, end in (("saved_model", ""), ("keras", ".keras"), ("torch", ".pth")):
            self.call("export", f"--workdir={run}", f"--output={model}{end}", f"--format={kind}")
        images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
        loaded = tf.saved_model.load(model)(images)
        for name, features in trunk(images).items():
            self.assertAllClose(loaded[name], features, atol=1e-4)
        error = self.call(
            *("export", f"--workdir={run}", f"--output={model}-torchvision.pth"),
            "--format=torchvision",
            code=WRONG_USAGE,
        )
        self.assertIn("torchvision has no ResNet-10; --format=torch, onnx, keras3", error)
        split = (f"--train={data}", f"--test={data}")
        found = self.call("evaluate", "--task=knn", f"--model={run}", *split, "--norandom_init")
        self.assertIn("block4_1", found["layers"])


if __name__ == "__main__":
    tf.test.main()
