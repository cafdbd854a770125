"""A folder of `.npy` files for the tests of what reads them."""

import os
import tempfile

import numpy as np
import tensorflow as tf


class FolderTest(tf.test.TestCase):
    """Has a folder of its own for each test."""

    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())

    def path(self, name):
        return os.path.join(self.folder, name)

    def save(self, name, array):
        np.save(self.path(name), array)
        return self.path(name)
