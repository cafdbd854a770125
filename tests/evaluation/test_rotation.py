"""The rotation task against the same computed by hand."""

import json
import os
import shutil
import tempfile

import numpy as np
import pytest
import runs
import tensorflow as tf
import workers
from striped import call

from dc_tf.data.input.pipeline import evaluation_batches
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.evaluation.rotation import read_head
from dc_tf.training.checkpoint import load_trunk


@pytest.mark.slow
class RotationTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.data = runs.make_data(cls.folder)
        cls.run_folder = os.path.join(cls.folder, "run")
        flat = {**runs.SETTINGS["stages"][1], "clusters": 1, "rotations": 1, "name": "flat"}
        flat |= {"epochs": 1}
        stages = [*runs.SETTINGS["stages"], flat]
        workers.on_cluster(1, runs.train, runs.settings(cls.data, stages=stages), cls.run_folder)

    def test_images_are_turned_and_the_runs_own_head_says_how(self):
        for stage, super_classes in (("rotnet", 4), ("deepercluster", 8)):
            flags = [f"--model={self.run_folder}", f"--stage={stage}", f"--test={self.data}"]
            code, out, err = call("evaluate", "--task=rotation", *flags)
            self.assertEqual(code, 0, err)
            result = json.loads(out.splitlines()[-1])
            kernel, bias, _ = read_head(self.run_folder, stage)
            self.assertEqual(kernel.shape, (16, super_classes))
            trunk, _ = load_trunk(self.run_folder, stage)
            reader = RowReader(Dataset.open(self.data))
            (batch,) = evaluation_batches(reader, range(128), 128, 32, round(32 * 256 / 224))
            for turn, share in enumerate(result["by_rotation"]):
                images = np.rot90(batch["image"].numpy(), turn, axes=(1, 2)).copy()
                features = np.maximum(trunk(images)["fc7"], 0)
                guess = (features @ kernel + bias).argmax(1) % 4
                self.assertAllClose(share, np.mean(guess == turn), atol=0.02)
            self.assertAllClose(result["rotation_accuracy"], np.mean(result["by_rotation"]))

    def test_what_has_no_such_head_is_refused(self):
        for flags, message in (
            ([f"--model={self.run_folder}", f"--test={self.data}"], "flat has no head"),
            ([f"--model={self.data}", f"--test={self.data}"], "is not a run"),
            ([f"--model={self.run_folder}"], "--test is missing"),
        ):
            code, _, err = call("evaluate", "--task=rotation", *flags)
            self.assertEqual(code, 2, err)
            self.assertIn(message, err)


if __name__ == "__main__":
    tf.test.main()
