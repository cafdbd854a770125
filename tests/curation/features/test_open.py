"""Features of runs, of `dc_tf embed` and of any other origin."""

import json
import os
import pathlib
import shutil
import tempfile
from unittest import mock

import numpy as np
import pytest
import runs
import tensorflow as tf

from dc_tf.curation.features import run_features
from dc_tf.curation.features.open import for_run, open_features
from dc_tf.data.synthetic.generate import generate
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.frozen.start import embed_files

ROWS = 40


class FilesTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        cls.data = os.path.join(cls.root, "data")
        generate(cls.data, images=ROWS, size=32, processes=1)
        cls.x = np.random.default_rng(0).standard_normal((ROWS, 6)).astype(np.float32)

    def save(self, name, array):
        path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), name)
        np.save(path, array)
        return path

    def parts(self, dtype=np.float32):
        """A folder with the rows in three files."""
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        for number, part in enumerate(np.split(self.x.astype(dtype), [7, 8])):
            np.save(os.path.join(folder, f"part-{number}.npy"), part)
        return folder

    def test_a_file_a_pattern_and_a_list_are_one_matrix_by_row_id(self):
        folder = self.parts()
        paths = sorted(str(path) for path in pathlib.Path(folder).iterdir())
        rows = [39, 0, 7, 7]
        for given in (self.save("x.npy", self.x), f"{folder}/*.npy", paths, ",".join(paths)):
            features = open_features(features=given, data=self.data)
            self.assertEqual((features.rows, features.dim, features.dtype), (ROWS, 6, np.float32))
            self.assertAllEqual(features.read(5, 12), self.x[5:12])
            self.assertAllEqual(features.take(rows), self.x[rows])
            self.assertEqual(features.dataset.rows, ROWS)
            self.assertIsNone(features.model)

    def test_unit_rows_have_length_one_and_zeros_stay(self):
        x = self.x.copy()
        x[3] = 0
        unit = open_features(features=self.save("x.npy", x)).unit().read(0, ROWS)
        self.assertAllClose(np.linalg.norm(unit, axis=1), np.arange(ROWS) != 3)
        self.assertAllClose(unit[5], x[5] / np.linalg.norm(x[5]))

    def test_the_fingerprint_follows_the_numbers(self):
        path = self.save("x.npy", self.x)
        before = open_features(features=path).fingerprint()
        self.assertEqual(open_features(features=path).fingerprint(), before)
        changed = self.x.copy()
        changed[11] += 1
        times = os.stat(path)
        np.save(path, changed)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        self.assertNotEqual(open_features(features=path).fingerprint(), before)

    def test_what_cannot_be_used_is_refused_with_what_would_work(self):
        good = self.save("x.npy", self.x)
        for text, given in (
            ("give --run=RUN, or --features", {}),
            ("not both", {"run": "RUN", "features": good}),
            ("'nothing/.*npy' matches no file", {"features": "nothing/*.npy"}),
            ("is an empty list", {"features": []}),
            ("has no rows", {"features": self.save("e.npy", self.x[:0])}),
            ("rows need a matrix", {"features": self.save("v.npy", self.x[0])}),
            ("39 rows, but --data=.* has 40", {"features": self.save("s.npy", self.x[1:])}),
            ("--data: .*does not exist", {"features": good, "data": "nowhere"}),
            ("--layer=fc7 is for runs", {"features": good, "layer": "fc7"}),
            ("no embed.json.*files as", {"features": os.path.dirname(good)}),
            ("is not the folder of a run", {"run": self.root}),
        ):
            with self.assertRaisesRegex(ConfigError, text):
                open_features(**{"data": self.data} | given | ({"data": None} if not given else {}))

    def test_a_row_that_is_not_there_is_named(self):
        features = open_features(features=self.save("x.npy", self.x))
        for row in (-1, ROWS):
            with self.assertRaisesRegex(DataError, f"row {row} is not in .*0..39"):
                features.take([0, row])


@pytest.mark.slow
class RunTest(tf.test.TestCase):
    """Of a trained network; the same folder for all tests, each on its own copy."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        settings, cls.trained = runs.undisturbed(1)
        cls.data = settings["data"]["path"]

    def setUp(self):
        super().setUp()
        self.run_folder = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "run")
        shutil.copytree(self.trained, self.run_folder)
        record = {
            "path": self.data,
            "fingerprint": run_features.Dataset.open(self.data).fingerprint(),
        }
        self.write("data.json", record)

    def write(self, name, value):
        with open(os.path.join(self.run_folder, name), "w") as file:
            json.dump(value, file)

    def test_features_are_those_of_embed_and_are_made_once(self):
        features = for_run(self.run_folder, "conv4")
        output = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "f")
        embed_files(self.run_folder, self.data, output, layers=["conv4"])
        other = open_features(features=output, data=self.data)
        self.assertEqual((other.layer, other.model), ("conv4", self.run_folder))
        self.assertAllClose(features.read(0, 128), other.read(0, 128))
        self.assertEqual(features.fingerprint(), other.fingerprint())
        with mock.patch.object(run_features, "embed_files", side_effect=AssertionError):
            again = for_run(self.run_folder, "conv4")
        self.assertEqual(again.fingerprint(), features.fingerprint())
        self.assertEqual(for_run(self.run_folder).layer, "fc7")
        self.assertIn("-2x2", os.path.basename(for_run(self.run_folder, "conv4", cells=2).path))

    def test_features_of_a_run_that_cannot_be_written_are_still_opened(self):
        first = for_run(self.run_folder, "conv4")
        with mock.patch.object(run_features.atomic, "locked", side_effect=PermissionError):
            self.assertEqual(for_run(self.run_folder, "conv4").files, first.files)
        with open(f"{first.path}.json", "w") as file:
            file.write("{")
        self.assertEqual(for_run(self.run_folder, "conv4").files, first.files)

    def test_a_stopped_call_resumes_and_a_newer_checkpoint_replaces(self):
        first = for_run(self.run_folder, "conv4")
        rows = first.read(0, 9)
        os.remove(first.files[0])
        with self.assertRaisesRegex(ConfigError, "not complete: 1 of 1 files of conv4"):
            open_features(features=first.path)
        self.assertAllEqual(for_run(self.run_folder, "conv4").read(0, 9), rows)
        checkpoints = os.path.join(self.run_folder, "checkpoints")
        shutil.rmtree(os.path.join(checkpoints, sorted(os.listdir(checkpoints))[-1]))
        second = for_run(self.run_folder, "conv4")
        self.assertFalse(np.array_equal(second.read(0, 9), rows))
        self.assertNotEqual(second.fingerprint(), first.fingerprint())

    def test_a_data_set_that_is_not_the_runs_is_refused(self):
        other = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "other")
        generate(other, images=64, size=32, processes=1, seed=9)
        with self.assertRaisesRegex(ConfigError, "was trained on a data set of 128 rows"):
            for_run(self.run_folder, "conv4", other)
        features = for_run(self.run_folder, "conv4", self.data)
        with self.assertRaisesRegex(ConfigError, "belongs to a data set of 128 rows"):
            open_features(features=features.path, data=other)
        self.write("data.json", {"path": "/moved", "fingerprint": "x"})
        with self.assertRaisesRegex(ConfigError, "may be named with --data"):
            for_run(self.run_folder, "conv4")

    def test_layers_are_named_where_there_is_a_choice(self):
        output = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "f")
        embed_files(self.run_folder, self.data, output, layers=["conv4", "fc7"])
        with self.assertRaisesRegex(ConfigError, "needs --layer; it has conv4, fc7"):
            open_features(features=output)
        with self.assertRaisesRegex(ConfigError, "has no layer conv5"):
            open_features(features=output, layer="conv5")
        self.assertEqual(open_features(features=output, layer="fc7").dim, 16)
        files = open_features(features=os.path.join(output, "fc7-*.npy"), data=self.data)
        self.assertEqual((files.layer, files.model), ("fc7", self.run_folder))
        for name in ("all", "conv99"):
            with self.assertRaisesRegex(ConfigError, "layer"):
                for_run(self.run_folder, name)
        with open(os.path.join(output, "embed.json"), "w") as file:
            file.write('{"data": 3}')
        with self.assertRaisesRegex(ConfigError, "embed again"):
            open_features(features=output)


if __name__ == "__main__":
    tf.test.main()
