"""The tree in its folder: its products have one type, which is said and kept."""

import contextlib
import io
import json
import os
import pathlib
import tempfile
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from dc_tf import precision as precision_lib
from dc_tf.clustering.store.feature_files import Features
from dc_tf.curation.tree import hierarchical_kmeans as levels
from dc_tf.curation.tree.grow import grow
from dc_tf.curation.tree.options import HierarchyOptions
from dc_tf.distributed import stop_request
from dc_tf.errors import ConfigError, Preempted

DIM = 40  # faiss is faster for few components only, and has float32 only


def on_device(speed, excess=0.9):
    """A device on which bfloat16 products are so many times as fast, and as coarse."""
    return mock.patch.multiple(
        precision_lib,
        bfloat16_fault=lambda: "",
        product_speed=mock.Mock(return_value=speed),
        excess_error=lambda *_: excess,
    )


class GrowTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        path = os.path.join(self.folder, "features.npy")
        np.save(path, np.random.default_rng(0).normal(size=(200, DIM)).astype(np.float32))
        self.features = Features(path, [path])

    def grow(self, name, precision="auto"):
        """(tree, stderr, types of the products of each k-means)."""
        options = HierarchyOptions(clusters=(12, 3), rounds=1, iterations=3, precision=precision)
        err = io.StringIO()
        with (
            contextlib.redirect_stderr(err),
            mock.patch.object(levels, "kmeans", wraps=levels.kmeans) as kmeans,
        ):
            tree = grow(self.features, options, os.path.join(self.folder, name))
        return tree, err.getvalue(), {call.args[4].precision for call in kmeans.call_args_list}

    def stored(self, name):
        return json.loads(pathlib.Path(self.folder, name, "settings.json").read_text())["precision"]

    @pytest.mark.bfloat16
    def test_the_type_is_measured_said_and_kept_by_a_tree_that_resumes_elsewhere(self):
        with on_device(speed=2.0):
            whole, err, types = self.grow("whole")
            self.assertIn("curate: computes in bfloat16 (auto: bfloat16 is 2 times as fast", err)
            self.assertEqual((types, self.stored("whole")), ({"bfloat16"}, "bfloat16"))
            self.addCleanup(stop_request.reset)
            stop_request.request()
            with self.assertRaises(Preempted):  # after the first iteration
                self.grow("parts")
        stop_request.reset()
        with on_device(speed=0.1):
            tree, err, types = self.grow("parts")
        self.assertIn("bfloat16 is 0.1 times as fast as float32 here); auto would take", err)
        self.assertEqual((types, self.stored("parts")), ({"bfloat16"}, "bfloat16"))
        self.assertAllEqual(tree.labels, whole.labels)

    def test_a_finished_tree_measures_nothing_and_keeps_its_type(self):
        with on_device(speed=0.1):
            tree, err, types = self.grow("tree")
        self.assertIn("curate: computes in float32 (auto: bfloat16 is 0.1 times as fast", err)
        self.assertEqual((types, self.stored("tree")), ({"float32"}, "float32"))
        for precision in ("auto", "float32"):
            with on_device(speed=2.0):
                again, err, types = self.grow("tree", precision)
                precision_lib.product_speed.assert_not_called()
            self.assertEqual((err, types), ("", set()))
            self.assertAllEqual(again.labels, tree.labels)
        with on_device(speed=2.0), self.assertRaisesRegex(ConfigError, "different: precision"):
            self.grow("tree", "bfloat16")

    @pytest.mark.bfloat16
    def test_coarse_products_are_left_and_that_is_said(self):
        with on_device(speed=2.0, excess=1.8):
            _, err, types = self.grow("tree", "bfloat16")
        self.assertIn("curate: computes in float32 (bfloat16 products round 1.8 times", err)
        self.assertEqual((types, self.stored("tree")), ({"float32"}, "bfloat16"))


if __name__ == "__main__":
    tf.test.main()
