"""From a file of PyTorch to a model that is measured; what cannot work leaves nothing behind."""

import contextlib
import importlib.util
import io
import json
import os
import sys
import tempfile
import unittest
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from dc_tf.commands.main import main
from dc_tf.data.synthetic.generate import generate
from dc_tf.exporting.metadata import read_metadata

NEEDS_TORCH = unittest.skipUnless(
    importlib.util.find_spec("torch"), "pip install -c constraints.txt torch"
)


class ImportTorchTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        self.checkpoint = os.path.join(self.folder, "ours.pth")
        self.output = os.path.join(self.folder, "model")

    def call(self, *flags, name="import_torch"):
        """(exit code, stdout, stderr) of a command line."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([name, *flags])
        return code, out.getvalue(), err.getvalue()

    def import_it(self, *flags):
        paths = [f"--checkpoint={self.checkpoint}", f"--output={self.output}"]
        return self.call(*paths, *flags)

    def refused(self, code, *flags):
        """The last line on stderr of an import that must fail and write nothing."""
        before = os.listdir(self.folder)
        found, out, err = self.import_it(*flags)
        self.assertEqual((found, out), (code, ""), err)
        self.assertNotIn("Traceback", err)
        self.assertEqual(os.listdir(self.folder), before)
        return err.splitlines()[-1]

    def save(self, change=lambda state: None, **settings):
        """Writes a narrow network of the paper's program; returns the pixels that it was for."""
        import torch
        from torch_vgg import released, trained_like

        pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
        images = torch.tensor(pixels).permute(0, 3, 1, 2) / 255
        self.network = trained_like(images, width=1 / 16, fc=24, **settings)
        content = released(self.network)
        change(content["state_dict"])
        torch.save(content, self.checkpoint)
        with torch.no_grad():
            self.features = self.network(images).numpy()
        return pixels

    @pytest.mark.slow
    @NEEDS_TORCH
    def test_the_result_says_what_was_imported_and_computes_it(self):
        for form in ("layer", "folded"):
            pixels = self.save()
            code, out, err = self.import_it("--resolution=32", f"--sobel={form}", "--overwrite")
            self.assertEqual(code, 0, err)
            result = json.loads(out.splitlines()[-1])
            settings = {"width": 1 / 16, "resolution": 32, "fc": 24, "sobel": True}
            self.assertEqual(result["settings"], settings)
            self.assertEqual(result["ignored"], ["pred_layer.bias", "pred_layer.weight"])
            self.assertEqual(result["outputs"]["conv13"], [2, 2, 32])
            self.assertIn("3/3 steps", err)
            source = read_metadata(self.output).source
            self.assertEqual(source["checkpoint"], self.checkpoint)
            self.assertEqual(source["sha256"], result["sha256"])
            found = tf.saved_model.load(self.output)(pixels)["fc7"]
            self.assertAllClose(found, self.features, atol=1e-4, rtol=1e-4)

    @pytest.mark.slow
    @NEEDS_TORCH
    def test_what_was_imported_can_be_measured(self):
        self.save()
        self.assertEqual(self.import_it("--resolution=32")[0], 0)
        data = {split: os.path.join(self.folder, split) for split in ("train", "test")}
        for split, path in data.items():
            generate(path, images=40, size=40, classes=4, processes=1, split=split)
        flags = [f"--{split}={path}" for split, path in data.items()]
        flags += [f"--model={self.output}", "--task=knn", "--layer=conv13", "--norandom_init"]
        code, out, err = self.call(*flags, name="evaluate")
        self.assertEqual(code, 0, err)
        self.assertIn('"conv13": {"top1"', out)

    @NEEDS_TORCH
    def test_another_network_is_refused_by_the_key_that_is_missing(self):
        self.save(lambda state: state.pop("module.body.features.21.running_mean"))
        self.assertIn("no 'features.21.running_mean'", self.refused(1, "--resolution=32"))

    @NEEDS_TORCH
    def test_another_resolution_is_refused_by_the_shape_of_fc6(self):
        self.save()
        message = self.refused(1)
        for text in ("'classifier.0.weight'", "(24, 32)", "(24, 1568)", "resolution 224"):
            self.assertIn(text, message)

    @NEEDS_TORCH
    def test_images_smaller_than_the_network_can_see_are_refused(self):
        self.save()
        self.assertIn("needs at least 30 pixels", self.refused(2, "--resolution=29"))

    @NEEDS_TORCH
    def test_a_file_that_is_no_checkpoint_is_refused(self):
        with open(self.checkpoint, "w") as f:
            f.write("Not found.")
        self.assertIn("no checkpoint", self.refused(1))

    @NEEDS_TORCH
    @pytest.mark.slow
    def test_a_network_on_rgb_has_no_sobel_stage_to_fold(self):
        self.save(sobel=False)
        self.assertIn("sobel='layer'", self.refused(2, "--resolution=32", "--sobel=folded"))
        self.assertEqual(self.import_it("--resolution=32")[0], 0)
        self.assertFalse(read_metadata(self.output).settings["sobel"])

    def test_wrong_usage_is_refused_before_anything_is_read(self):
        self.assertIn("there is no file", self.refused(2))
        self.assertIn("layer, folded", self.refused(2, "--sobel=fold"))
        self.assertIn("resolution", self.refused(2, "--resolution=7"))
        os.makedirs(self.output)
        with open(os.path.join(self.output, "thesis.txt"), "w") as f:
            f.write("years of work")
        self.assertIn("--overwrite", self.refused(2))
        self.assertIn("no SavedModel", self.refused(2, "--overwrite"))

    def test_without_pytorch_it_says_how_to_get_a_small_one(self):
        with open(self.checkpoint, "wb"):
            pass
        with mock.patch.dict(sys.modules, torch=None):
            message = self.refused(2)
        self.assertIn("pip install torch", message)


if __name__ == "__main__":
    tf.test.main()
