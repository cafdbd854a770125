"""A path without a model is refused with what it holds and what may be given."""

import os

import numpy as np
import pictures
import runs
import tensorflow as tf

from dc_tf import keras
from dc_tf.errors import ConfigError
from dc_tf.evaluation.models import network_settings, open_model
from dc_tf.exporting.metadata import read_metadata
from dc_tf.exporting.no_model import no_model
from dc_tf.exporting.saved_model import restore_trunk

USABLE = "a SavedModel of 'dc_tf export' or 'dc_tf import_torch', or the folder of a run"


class RefusalTest(tf.test.TestCase):
    def path(self, name):
        return os.path.join(self.get_temp_dir(), name)

    def test_every_way_of_opening_refuses_the_saved_model_of_another_program(self):
        model = self.path("theirs")
        tf.saved_model.save(tf.Module(), model)
        text = f"model '{model}' is a SavedModel of another program: it has no dc_tf.json; {USABLE}"
        text = text.replace("json; a", "json; use a")
        for opened in (open_model, network_settings, restore_trunk, read_metadata):
            with self.assertRaisesRegex(ConfigError, text) as caught:
                opened(model)
            self.assertIn("'dc_tf kmeans' as .npy files", str(caught.exception))

    def test_files_are_named_for_what_they_are(self):
        model = keras.Sequential([keras.layers.Dense(1)])
        model.build([None, 2])
        model.save(self.path("a.keras"))
        for name in ("a.onnx", "b.pth", "c.jpg"):
            pictures.write(self.get_temp_dir(), name, b"x")
        for name, text in (
            ("a.keras", "is a Keras file; use .*export its run as a SavedModel"),
            ("a.onnx", "is an ONNX file; use .*export its run as a SavedModel"),
            ("b.pth", "is a checkpoint file; use .*'dc_tf import_torch'"),
            ("c.jpg", f"is a file; use {USABLE}"),
            ("absent", f"does not exist; use {USABLE}"),
        ):
            with self.assertRaisesRegex(ConfigError, text):
                open_model(self.path(name))

    def test_folders_are_named_for_what_they_hold(self):
        data = runs.make_data(self.get_temp_dir(), images=4)
        self.assertIn("is a data set;", str(no_model(data)))
        os.makedirs(self.path("empty"))
        self.assertIn("holds no model;", str(no_model(self.path("empty"))))
        pictures.write(self.path("models"), "mine/dc_tf.json", "{}")
        text = f"is a folder of models; name one of them, such as '{self.path('models/mine')}'."
        self.assertIn(text, str(no_model(self.path("models"))))
        self.assertIn("name its folder", str(no_model(self.path("models/mine/dc_tf.json"))))
        np.save(self.path("empty/fc7.npy"), np.zeros([1, 1]))
        pictures.write(self.path("empty"), "embed.json", "{}")
        self.assertIn("has features of 'dc_tf embed'", str(no_model(self.path("empty"))))


if __name__ == "__main__":
    tf.test.main()
