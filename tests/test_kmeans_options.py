import dataclasses
import inspect

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

import dc_tf
from dc_tf.clustering.job.checks import Asked
from dc_tf.commands import curate
from dc_tf.commands import kmeans as command
from dc_tf.curation.tree.options import HierarchyOptions
from dc_tf.errors import ConfigError
from dc_tf.experiment.clustering import Clustering
from dc_tf.kmeans_options import CHOICES, COMMAND_OPTIONS, KMeansOptions


class ChecksTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ({"precision": "float8"}, "precision=float8; use float32, bfloat16 or auto."),
        ({"backend": "foo"}, "backend=foo; use auto, tensorflow or faiss."),
        ({"backend": None}, "backend=None; use auto"),
        ({"init": "nothing"}, "init=nothing; use random, k-means++, k-means|| or previous."),
        ({"spherical": "x"}, "spherical='x'; use True or False."),
        ({"iterations": 2**31}, "iterations=2147483648; use a whole number, from 0 to"),
        ({"backend": "faiss", "precision": "bfloat16"}, "precision=bfloat16; use float32 or auto"),
    )
    def test_values_that_cannot_work_are_refused_where_they_enter(self, wrong, message):
        with self.assertRaises(ConfigError) as caught:
            KMeansOptions(**wrong)
        self.assertIn(message, str(caught.exception))
        if "init" not in wrong:  # Asked takes the name of a file too
            with self.assertRaises(ConfigError) as caught:
                Asked.of(input="x.npy", output="", **wrong)
            self.assertIn(f"--{message}", str(caught.exception))

    def test_values_of_numpy_become_those_of_python(self):
        options = KMeansOptions(iterations=np.int64(3), spherical=np.True_)
        self.assertIs(type(options.iterations), int)
        self.assertIs(options.spherical, True)


class DefaultsTest(tf.test.TestCase):
    def test_commands_and_functions_have_those_of_the_one_declaration(self):
        asked = dataclasses.asdict(Asked.of(input="x.npy", output="").options)
        self.assertEqual(asked, dataclasses.asdict(COMMAND_OPTIONS))
        parameters = inspect.signature(dc_tf.kmeans).parameters
        flags = command.FLAGS.flag_values_dict()
        names = ("iterations", "init", "precision", "backend", "spherical", "tolerance")
        for name in names:
            self.assertEqual(parameters[name].default, asked[name], name)
            self.assertEqual(flags[name], asked[name], name)
        cached = (parameters["cache_gb"].default, flags["cache_gb"], Clustering().cache_gb)
        self.assertEqual(cached, (COMMAND_OPTIONS.cache_bytes / 1e9,) * 3)
        tree = HierarchyOptions(clusters=(1,))
        flags = curate.FLAGS.flag_values_dict()
        for name in ("iterations", "precision"):
            self.assertEqual((getattr(tree, name), flags[name]), (asked[name],) * 2, name)

    def test_flags_take_what_the_options_take(self):
        for flag in (command.PRECISION, command.BACKEND, curate.PRECISION):
            values = command.FLAGS[flag.name].parser.enum_values
            self.assertEqual(values, list(CHOICES[flag.name]))


if __name__ == "__main__":
    tf.test.main()
