"""`~` means the home folder in every path, and outputs that cannot be made are refused."""

import os
import pathlib
import shutil
import subprocess
from unittest import mock

import tensorflow as tf

from dc_tf import paths
from dc_tf.errors import ConfigError


class ExpandTest(tf.test.TestCase):
    def test_a_tilde_in_front_is_a_home_folder_and_elsewhere_a_name(self):
        with mock.patch.dict(os.environ, HOME="/home/me"):
            for given, expected in [
                ("~", "/home/me"),
                ("~/a b", "/home/me/a b"),
                ("~/data-*.npy", "/home/me/data-*.npy"),
                (pathlib.Path("~/x"), "/home/me/x"),
                ("~root/x", os.path.expanduser("~root/x")),
                ("/a/~/b", "/a/~/b"),
                ("./~", "./~"),
                ("a~", "a~"),
                ("", ""),
                ("file:///a/b", "/a/b"),
                ("file://localhost/a", "/a"),
                ("gs://bucket/~/x", "gs://bucket/~/x"),
                ("tfds:cifar10:train", "tfds:cifar10:train"),
            ]:
                self.assertEqual(paths.expand(given), expected)
            self.assertEqual(paths.expand_all("~/a,/b,~/c-*"), "/home/me/a,/b,/home/me/c-*")

    def test_an_unknown_user_and_a_relative_url_are_refused_with_what_would_work(self):
        for given, message in [
            ("~nobody-here/x", "~nobody-here is no user here; write ./~nobody-here/x"),
            ("file://a/b", "write file:///folder/name"),
            ("file:~/b", None),
        ]:
            if message is None:
                self.assertEqual(paths.expand(given), given)
                continue
            with self.assertRaisesRegex(ConfigError, message):
                paths.expand(given)


class OutputTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.get_temp_dir()) / "outputs"
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "sub").mkdir(parents=True)
        (self.folder / "file").touch()
        (self.folder / "dangling").symlink_to(self.folder / "nowhere")
        os.mkfifo(self.folder / "pipe")

    def refusals(self, cases):
        for check, path, message in cases:
            path = os.path.join(self.folder, path)
            with self.assertRaisesRegex(ConfigError, message, msg=path) as caught:
                check(path, "--output")
            self.assertStartsWith(str(caught.exception), f"--output={path} ")
            self.assertEndsWith(str(caught.exception), ".")

    def test_what_can_be_made_passes_and_leaves_no_trace(self):
        before = sorted(os.listdir(self.folder))
        for path in ("new", "new/below/it", "sub", "sub/", "sub/new"):
            paths.check_folder(os.path.join(self.folder, path), "--output")
        for path in ("new.json", "file", "sub/new.json", "/dev/null"):
            paths.check_file(os.path.join(self.folder, path), "--output")
        for url in ("gs://bucket/x", "s3://bucket/x/"):
            paths.check_folder(url, "--output")
            paths.check_file(url, "--output")
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    def test_what_is_in_the_way_is_named(self):
        folder, file = paths.check_folder, paths.check_file
        self.refusals(
            [
                (folder, "file", "is a file; name a folder"),
                (folder, "file/x", "outputs/file is a file"),
                (folder, "file/x/y", "outputs/file is a file"),
                (folder, "dangling", "a link to .*/nowhere, which is missing"),
                (folder, "x" * 300, "File name too long"),
                (folder, "/proc/x", "nothing can be made in /proc"),
                (folder, "/dev/null", "is a file; name a folder"),
                (file, "sub", "is a folder; name a file"),
                (file, "sub/", "is a folder; name a file"),
                (file, "new/", "is a folder; name a file"),
                (file, "file/x", "outputs/file is a file"),
                (file, "file/x/y", "outputs/file is a file"),
                (file, "new/x.json", "the folder .*outputs/new does not exist"),
                (file, "dangling", "a link to .*/nowhere, which is missing"),
                (file, "/proc/x", "nothing can be made in /proc"),
                (file, "pipe", "is not a regular file or a device"),
            ]
        )
        for check in (folder, file):
            with self.assertRaisesRegex(ConfigError, "--output is empty"):
                check("", "--output")

    def test_a_folder_without_permission_is_named(self):
        allowed = os.access
        sub = str(self.folder / "sub")

        def access(path, mode):
            return os.path.realpath(path) != os.path.realpath(sub) and allowed(path, mode)

        with mock.patch.object(paths.os, "access", access):
            self.refusals(
                [
                    (paths.check_folder, "sub", "sub is not writable for this user"),
                    (paths.check_folder, "sub/a/b", "sub is not writable for this user"),
                    (paths.check_file, "sub/x.json", "sub is not writable for this user"),
                ]
            )

    def test_what_permissions_do_not_tell_is_tried(self):
        error = PermissionError(13, "Permission denied")
        with mock.patch.object(paths.tempfile, "mkdtemp", side_effect=error):
            self.refusals([(paths.check_folder, "new", "nothing can be made in .*outputs")])
        full = OSError(28, "No space left on device")
        with mock.patch.object(paths.tempfile, "mkdtemp", side_effect=full):
            paths.check_folder(str(self.folder / "new"), "--output")  # the work says it

    def test_an_immutable_folder_is_refused_where_the_file_system_has_them(self):
        sub = self.folder / "sub"
        if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", sub]).returncode:
            self.skipTest("needs root, chattr and a file system with attributes")
        self.addCleanup(subprocess.run, ["chattr", "-i", sub], check=True)
        self.refusals(
            [
                (paths.check_folder, "sub/new", "sub is not writable"),
                (paths.check_file, "sub/x.json", "sub is not writable"),
            ]
        )


if __name__ == "__main__":
    tf.test.main()
