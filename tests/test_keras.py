"""Keras of either stack runs as it is written."""

import contextlib
import importlib
import os
import traceback

import numpy as np
import pytest
import tensorflow as tf

from dc_tf import keras

pytestmark = pytest.mark.tf215


class KerasTest(tf.test.TestCase):
    def test_autograph_does_not_convert_keras(self):
        files = []

        def doubled(x):
            files.extend(frame.filename for frame in traceback.extract_stack())
            return 2 * x

        images = keras.layers.Input([2])
        model = keras.Model(images, keras.layers.Lambda(doubled)(images))
        files.clear()
        found = model.predict(np.ones([1, 2], np.float32), verbose=0)
        self.assertAllEqual(found, [[2, 2]])
        self.assertTrue([f for f in files if f.endswith("keras/src/engine/functional.py")], files)

    def test_files_find_their_classes_whatever_else_is_imported(self):
        for other in ("keras", "tensorflow_addons"):
            with contextlib.suppress(ImportError):
                importlib.import_module(other)
        path = os.path.join(self.get_temp_dir(), "two.keras")
        images = keras.layers.Input([2])
        keras.Model(images, tf.reduce_max(images, 1, keepdims=True)).save(path)
        model = keras.models.load_model(path, compile=False)
        self.assertIs(type(model.layers[0]), keras.layers.InputLayer)
        self.assertAllEqual(model(tf.constant([[1.0, 2.0]])), [[2.0]])


if __name__ == "__main__":
    tf.test.main()
