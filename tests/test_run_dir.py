"""Folders of a run."""

import contextlib
import os
import pathlib
import tempfile
from unittest import mock

import disks
import tensorflow as tf

from dc_tf import run_dir
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
        with self.assertRaisesRegex(ConfigError, r"--output=s3://b/run .*mount the bucket"):
            run_dir.claim("s3://b/run/about.json", {}, "--output", "features")


class RenameTest(tf.test.TestCase):
    """Folders on file systems that can rename files only, as `without_renaming_folders` is one."""

    def folder(self):
        path = tempfile.mkdtemp(dir=self.get_temp_dir())
        for name in "abc":
            pathlib.Path(path, name).write_text(name)
        return path

    def test_a_folder_is_renamed_with_its_files_where_only_files_can_be(self):
        for can in (True, False):
            path = self.folder()
            with contextlib.nullcontext() if can else disks.without_renaming_folders():
                run_dir.rename_tree(path, path + "-new")
            self.assertEqual(sorted(os.listdir(path + "-new")), ["a", "b", "c"])
            self.assertFalse(os.path.exists(path))

    def test_the_file_that_completes_it_comes_last(self):
        path = self.folder()
        with disks.without_renaming_folders(files=2), self.assertRaises(disks.Interrupted):
            run_dir.rename_tree(path, path + "-new", order=lambda name: name == "a")
        self.assertEqual(sorted(os.listdir(path + "-new")), ["b", "c"])

    def test_other_errors_are_not_hidden(self):
        path = self.folder()
        pathlib.Path(path + "-new").mkdir()
        pathlib.Path(path + "-new", "x").touch()
        with self.assertRaises(OSError):
            run_dir.rename_tree(path, path + "-new")
        self.assertEqual(sorted(os.listdir(path)), ["a", "b", "c"])


if __name__ == "__main__":
    tf.test.main()
