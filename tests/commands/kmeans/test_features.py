"""`dc_tf kmeans` on the output folder of `dc_tf embed`: its only layer is what is clustered."""

import os
import pathlib

import runs
import tensorflow as tf
from kmeans_command import CommandTest
from other_networks import saved_model

import dc_tf
from dc_tf.errors import ConfigError


class FeaturesTest(CommandTest):
    def setUp(self):
        super().setUp()
        outputs = {"serving_default": ("mean", "most")}
        model = saved_model(self.path("theirs"), signatures=outputs)
        data = runs.make_data(self.folder, images=12)
        self.one, self.both = self.path("one"), self.path("both")
        settings = {"preprocessing": "0-1", "batch_size": 5, "rows_per_file": 5}
        for layer, output in (("mean", self.one), ("all", self.both)):
            dc_tf.embed(model, data, layer, output, **settings)

    def test_a_folder_of_one_layer_is_its_files(self):
        printed = self.result(input=f"{self.one}/mean-*.npy", k=3)
        expected = self.found()
        self.assertEqual(self.result(input=self.one, k=3), printed)  # is the same clustering
        folder = self.path("of_folder")
        self.result(input=self.one, k=3, output=folder)
        found = self.found(folder)
        self.assert_same(found, expected)
        self.assertLen(found.about["input"], 3)
        self.assertEqual(found.about["input"], expected.about["input"])
        for x in (self.one, [pathlib.Path(self.one)]):
            clusters = dc_tf.kmeans(x, 3)
            self.assertAllEqual(clusters.assignments, expected.assignments)
            self.assertAllEqual(clusters.centroids, expected.centroids)

    def test_of_several_layers_one_is_asked_for_with_what_to_write(self):
        patterns = [f"{self.both}/{layer}-*.npy" for layer in ("mean", "most")]
        line = self.refusal(2, input=self.both, k=3)
        self.assertIn(f"--input={self.both} has 2 layers; give one of them: ", line)
        for pattern in patterns:
            self.assertIn(f"--input='{pattern}'", line)
            self.result(input=pattern, k=3, output=self.path(os.path.basename(pattern)[:4]))
        with self.assertRaisesRegex(ConfigError, f"^x={self.both} has 2 layers; .*x='.*/mean-"):
            dc_tf.kmeans(self.both, 3)

    def test_a_folder_that_is_not_whole_or_of_something_else_is_refused(self):
        line = self.refusal(2, input=self.folder, k=3)
        self.assertIn(f"--input={self.folder} has no embed.json", line)
        self.assertIn(f"files as '{self.folder}/*.npy'", line)
        os.remove(f"{self.one}/mean-00001-of-00003.npy")
        line = self.refusal(2, input=self.one, k=3)
        self.assertRegex(line, "--input=.*one is not complete: 1 of 3 files of mean are missing")
        self.assertFalse(os.path.exists(self.output))


if __name__ == "__main__":
    tf.test.main()
