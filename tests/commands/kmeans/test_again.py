"""`dc_tf kmeans` called again: on its result, after an interrupt, on a full disk."""

import json
import os
import shutil
from unittest import mock

import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from kmeans_command import DIM, CommandTest, K, blobs, call, stopped_after

from dc_tf.clustering.job import run as kmeans_job
from dc_tf.clustering.kmeans import kmeans


class AgainTest(CommandTest, parameterized.TestCase):
    """A second call with the same output."""

    def test_a_finished_clustering_prints_its_result_again(self):
        printed = self.result()
        before = os.stat(os.path.join(self.output, "clustering.json"))
        code, out, err = call(*self.argv())
        self.assertEqual((code, json.loads(out)), (0, printed))
        self.assertIn("is finished; this is its result again", err)
        after = os.stat(os.path.join(self.output, "clustering.json"))
        self.assertEqual(after.st_mtime_ns, before.st_mtime_ns)

    def test_other_settings_or_rows_are_refused_and_named(self):
        self.result(iterations=1)
        expected = self.found()
        message = self.refusal(2, seed=1)
        self.assertRegex(message, r"other settings \(iterations: 1, 10; seed: 0, 1\); use another")
        self.x[5, 5] += 1
        self.save("x.npy", self.x)
        self.assertRegex(self.refusal(2, iterations=1), r"other settings \(input_checksum: ")
        self.assert_same(self.found(), expected)

    def test_overwrite_replaces_it(self):
        self.result(iterations=1)
        self.result("--overwrite", k=3)
        self.assertEqual(self.found().centroids.shape, (3, DIM))

    @parameterized.parameters("float32", "bfloat16")
    def test_an_interrupted_one_resumes_and_ends_the_same(self, precision):
        # One cloud: so many rows are almost as near to two centroids that bfloat16 takes the
        # same way only with the labels of the last iteration.
        cloud = self.save("cloud.npy", blobs(rows=2000, dim=64, k=1))
        flags = {"input": cloud, "k": 64, "precision": precision, "save_every_s": 0}
        whole, part = self.path("whole"), self.path("part")
        self.result(**flags, output=whole)
        code, _, err = stopped_after(1, call, *self.argv(**flags, output=part))
        self.assertEqual(code, 1, err)
        self.assertFalse(os.path.exists(os.path.join(part, "centroids.npy")))
        self.assertRegex(self.refusal(2, **flags, output=part, seed=5), "other settings")
        with mock.patch.object(kmeans_job, "kmeans", wraps=kmeans) as spy:
            self.result("--overwrite", **flags, output=part)
        self.assertEqual(spy.call_args.kwargs["state"].iteration, 1)
        self.assert_same(self.found(part), self.found(whole))

    def test_what_is_there_already_needs_no_more_room(self):
        flags = {"save_every_s": 0, "iterations": 3, "k": 300}
        full = mock.patch.object(shutil, "disk_usage", return_value=mock.Mock(free=1_080_000))
        with full:
            self.assertIn("and its disk has 0.00108 GB free", self.refusal(1, **flags))
        self.assertEqual(stopped_after(2, call, *self.argv(**flags))[0], 1)
        with full:
            printed = self.result(**flags)
        with mock.patch.object(shutil, "disk_usage", return_value=mock.Mock(free=0)):
            self.assertEqual(self.result(**flags), printed)

    def test_a_disk_that_fills_at_the_end_costs_the_last_step_only(self):
        full = OSError(28, "No space left on device")
        with mock.patch.object(np.lib.format, "write_array_header_1_0", side_effect=full):
            message = call(*self.argv(save_every_s=0))[2].splitlines()[-1]
        self.assertRegex(message, "cannot be written: No space left.*which resumes")
        self.assertFalse(os.path.exists(os.path.join(self.output, "clustering.json")))
        self.result(save_every_s=0)
        self.assertAllEqual(self.found().assignments, kmeans(self.x, K).assignments)


if __name__ == "__main__":
    tf.test.main()
