"""A view is trained on, embedded and looked at like the same images in shards of their own."""

import os
import shutil
import tempfile

import numpy as np
import pytest
import runs
import tensorflow as tf
import workers

from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.materialize import materialize
from dc_tf.data.storage.view import write_view
from dc_tf.evaluation.frozen.embed import embed_in_memory
from dc_tf.evaluation.models import open_model
from dc_tf.evaluation.splits import open_splits
from dc_tf.run_dir import RunDir
from dc_tf.training.replay import replay


@pytest.mark.slow
class OnViewTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        base = Dataset.open(runs.make_data(cls.folder))
        rows = np.random.default_rng(0).permutation(base.rows)[:64]
        cls.paths = {name: os.path.join(cls.folder, name) for name in ("view", "own")}
        view = write_view(base, rows, cls.paths["view"])
        materialize(view, cls.paths["own"], rows_per_file=20, progress=False)
        stages = [{**stage, "epochs": 1} for stage in runs.SETTINGS["stages"]]
        cls.runs = {name: os.path.join(cls.folder, f"run_{name}") for name in cls.paths}
        for name, path in cls.paths.items():
            settings = runs.settings(path, stages=stages)
            workers.on_cluster(1, runs.train, settings, cls.runs[name])

    def test_training_ends_with_the_same_weights(self):
        view, own = (runs.end_state(self.runs[name]) for name in ("view", "own"))
        self.assertEqual(view.keys(), own.keys())
        self.assertGreater(len(own), 20)
        for name, value in own.items():
            self.assertAllEqual(view[name], value, name)

    @pytest.mark.extended
    def test_features_are_the_same(self):
        frozen = open_model(self.runs["own"])
        view, own = (
            embed_in_memory(frozen, Dataset.open(path), ("conv5", "fc7"), batch_size=16)
            for path in self.paths.values()
        )
        for layer in own:
            self.assertAllEqual(view[layer], own[layer])

    @pytest.mark.extended
    def test_a_step_is_drawn_again_with_the_same_images(self):
        view, own = (replay(RunDir(path), 3) for path in self.runs.values())
        self.assertAllEqual(view.images, own.images)
        self.assertAllEqual(view.draws.row, own.draws.row)
        self.assertEqual([r["label"] for r in view.rows()], [r["label"] for r in own.rows()])
        self.assertRegex(view.rows()[0]["record"], r"data/shard")

    def test_labels_to_measure_with_are_the_same(self):
        view, own = (open_splits(path, path)[0] for path in self.paths.values())
        self.assertAllEqual(view.rows, own.rows)
        self.assertAllEqual(view.labels, own.labels)
        self.assertEqual(view.classes, own.classes)


if __name__ == "__main__":
    tf.test.main()
