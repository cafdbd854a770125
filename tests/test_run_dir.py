"""Folders of a run."""

import os
import pathlib
import tempfile
from unittest import mock

import tensorflow as tf

from dc_tf.errors import ConfigError
from dc_tf.run_dir import RunDir


class RunDirTest(tf.test.TestCase):
    def test_scratch_of_workers_that_are_no_more_is_removed(self):
        disk = tempfile.mkdtemp(dir=self.get_temp_dir())
        run, other = (RunDir(os.path.join(disk, name)) for name in ("run", "other"))
        for scratch in ({}, {"DC_TF_SCRATCH": os.path.join(disk, "scratch")}):
            with mock.patch.dict(os.environ, scratch):
                folders = [
                    pathlib.Path(r.features(rank)) for r in (run, other) for rank in range(4)
                ]
                for folder in folders:
                    folder.joinpath("raw").mkdir(parents=True)
                run.remove_features_of_others(2)
                left = [folder.exists() for folder in folders]
                self.assertEqual(left, [True, True, False, False] + [True] * 4)

    def test_a_run_without_scratch_has_nothing_to_remove(self):
        RunDir(self.get_temp_dir()).remove_features_of_others(1)


class PlaceTest(tf.test.TestCase):
    def test_a_place_behind_a_url_is_refused_with_what_would_work(self):
        with self.assertRaisesRegex(ConfigError, r"--workdir=gs://b/run .*mount the bucket"):
            RunDir("gs://b/run")


if __name__ == "__main__":
    tf.test.main()
