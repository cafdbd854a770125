"""Runs with photometric augmentation and several views: resumed, and their steps replayed."""

import os
import shutil
import tempfile

import numpy as np
import pytest
import runs
import tensorflow as tf
import workers
from PIL import Image

from dc_tf.commands.replay import _write_sheet
from dc_tf.run_dir import RunDir
from dc_tf.training.replay import replay

STAGE = {
    **runs.SETTINGS["stages"][0],
    "augmentation": {"jitter": 1.0, "greyscale": 0.2, "blur": 0.5, "solarise": 0.1},
    "views": {"global_views": 2, "local_views": 2, "local_size": 32, "global_min_area": 0.14},
}


class ViewsTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.settings = runs.settings(runs.make_data(cls.folder), stages=[STAGE])
        cls.undisturbed = os.path.join(cls.folder, "undisturbed")
        workers.on_cluster(1, runs.train, cls.settings, cls.undisturbed)

    @pytest.mark.extended
    def test_a_run_stopped_and_resumed_ends_where_the_undisturbed_one_does(self):
        workdir = os.path.join(self.folder, "resumed")
        (result,) = workers.on_cluster(1, runs.train, self.settings, workdir, ("train", 5))
        self.assertIsNone(result)
        (result,) = workers.on_cluster(1, runs.train, self.settings, workdir)
        self.assertEqual(result["steps"], 8)
        ours, expected = runs.end_state(workdir), runs.end_state(self.undisturbed)
        self.assertEqual(ours.keys(), expected.keys())
        for name, value in expected.items():
            self.assertAllEqual(ours[name], value, name)

    @pytest.mark.extended
    def test_a_replayed_step_shows_all_views(self):
        batch = replay(RunDir(self.undisturbed), 6)
        self.assertEqual([view.shape for view in batch.views], [(32, 32, 32, 3)] * 4)
        self.assertEqual(len(np.unique([view[0].ravel() for view in batch.views], axis=0)), 4)
        rows = batch.rows()
        self.assertAllClose(rows[3]["mean"], np.mean([view[3] for view in batch.views]))
        sheet = os.path.join(self.folder, "sheet.png")
        _write_sheet(batch, rows, sheet)
        with Image.open(sheet) as image:
            width, height = image.size
        self.assertEqual(width % 8, 0)
        self.assertGreater(height, width // 2)  # 64 tiles in rows of eight


if __name__ == "__main__":
    tf.test.main()
