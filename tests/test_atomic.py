"""Killed at any touch of the disk, a file or folder is the old one or the new one."""

import contextlib
import itertools
import os
import pathlib
import shutil
import tempfile
from unittest import mock

import crash_points
import disks
import pytest
import tensorflow as tf
from crash_points import FOLDER_TOUCHES, TOUCHES

from dc_tf import atomic
from dc_tf.errors import ConfigError


def crashes(work):
    """Yields once for each touch of the disk of `work()`, after a fork of it was killed there."""
    for n in itertools.count():
        if crash_points.killed_at(n, work, TOUCHES + FOLDER_TOUCHES):
            assert n > 2, "the countdown sees no touches"
            return
        yield n


def order_of_disk(work):
    """What `work()` brings to disk ("sync NAME") and renames ("rename NAME NAME"), in order."""
    done = []
    replace = os.replace

    def note_sync(descriptor):
        done.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")

    def note_rename(source, target):
        done.append(f"rename {os.path.basename(source)} {os.path.basename(target)}")
        replace(source, target)

    with mock.patch.object(os, "fsync", note_sync), mock.patch.object(os, "replace", note_rename):
        work()
    return done


class AtomicTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()), "folder")
        self.folder.mkdir()


class FileTest(AtomicTest):
    def path(self, name="file"):
        return str(self.folder / name)

    def test_a_crash_leaves_the_old_or_the_new_content(self):
        path = self.path()

        def work():
            atomic.write_file(path, lambda file: self.write_slowly(file, b"new content"))

        for old in (None, b"old content"):
            seen = set()
            for n in crashes(work):
                found = pathlib.Path(path).read_bytes() if os.path.exists(path) else None
                self.assertIn(found, (old, b"new content"), n)
                seen.add(found)
                self.reset(path, old)
            self.assertEqual(seen, {old, b"new content"})
            self.assertEqual(pathlib.Path(path).read_bytes(), b"new content")
            self.reset(path, b"old content")

    def write_slowly(self, file, data):
        """In two parts; a crash between them leaves the first on the disk."""
        file.write(data[:5])
        file.flush()
        os.fsync(file.fileno())
        file.write(data[5:])

    def reset(self, path, content):
        if content is None:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
        else:
            pathlib.Path(path).write_bytes(content)

    def test_the_next_call_replaces_what_a_crash_left(self):
        path = self.path()
        for _ in crashes(lambda: atomic.write_text(path, "a")):
            atomic.write_text(path, "b")
            self.assertEqual(os.listdir(self.folder), ["file"])

    def test_the_content_reaches_the_disk_before_the_name_and_the_name_before_the_return(self):
        order = order_of_disk(lambda: atomic.write_text(self.path(), "a"))
        self.assertEqual(order, ["sync file.tmp", "rename file.tmp file", "sync folder"])

    def test_a_failure_leaves_the_old_content_and_nothing_else(self):
        atomic.write_text(self.path(), "old")

        def fail(file):
            file.write(b"ne")
            raise OSError("the disk is full")

        with self.assertRaisesRegex(OSError, "is full"):
            atomic.write_file(self.path(), fail)
        self.assertEqual(os.listdir(self.folder), ["file"])
        self.assertEqual(pathlib.Path(self.path()).read_text(), "old")

    def test_concurrent_writers_do_not_share_what_they_write_to(self):
        path = self.path()
        with atomic.replacing(path, concurrent=True, ending=".h5") as first:
            with atomic.replacing(path, concurrent=True, ending=".h5") as second:
                for staging, text in ((first, "first"), (second, "second")):
                    self.assertEndsWith(staging, ".h5")
                    pathlib.Path(staging).write_text(text)
            self.assertEqual(pathlib.Path(path).read_text(), "second")
        self.assertEqual(pathlib.Path(path).read_text(), "first")
        self.assertEqual(os.listdir(self.folder), ["file"])

    def test_json_comes_back(self):
        atomic.write_json(self.path(), {"b": [1, "ä"]})
        self.assertEqual(atomic.read_json(self.path()), {"b": [1, "ä"]})


class FolderTest(AtomicTest):
    """On file systems that can rename folders, and on those that can rename files only."""

    FILES = {"a": "1", "last": "2", "z": "3"}

    def setUp(self):
        super().setUp()
        self.path = str(self.folder / "made")

    def commit(self, rename_folders=True):
        staging = atomic.stage_folder(self.path)
        for name, text in self.FILES.items():
            pathlib.Path(staging, name).write_text(text)
        with contextlib.nullcontext() if rename_folders else disks.without_renaming_folders():
            atomic.commit_folder(self.path, last="last")

    def discard(self, rename_folders=True):
        with contextlib.nullcontext() if rename_folders else disks.without_renaming_folders():
            atomic.discard_folder(self.path, last="last")

    def assert_complete(self, message=None):
        found = {path.name: path.read_text() for path in pathlib.Path(self.path).iterdir()}
        self.assertEqual(found, self.FILES, message)

    def is_there(self):
        return os.path.exists(os.path.join(self.path, "last"))

    @pytest.mark.slow
    def test_after_a_crash_it_is_complete_or_without_its_last_file(self):
        for rename_folders in (True, False):
            shutil.rmtree(self.path, ignore_errors=True)
            for n in crashes(lambda: self.commit(rename_folders)):  # noqa: B023
                if self.is_there():
                    self.assert_complete(n)
                    shutil.rmtree(self.path)
            self.assert_complete()
            self.assertEqual(os.listdir(self.folder), ["made"])

    @pytest.mark.slow
    def test_what_is_corrupt_is_replaced_and_not_taken_for_complete_on_the_way(self):
        for rename_folders in (True, False):
            for n in crashes(lambda: self.commit(rename_folders)):  # noqa: B023
                found = self.is_there() and pathlib.Path(self.path, "a").read_text()
                self.assertIn(found, (False, "corrupt", "1"), n)
                self.damage()
            self.assert_complete()

    def damage(self):
        shutil.rmtree(self.path, ignore_errors=True)
        self.commit()
        pathlib.Path(self.path, "a").write_text("corrupt")

    def test_a_discarded_one_is_complete_or_without_its_last_file(self):
        for rename_folders in (True, False):
            self.commit()
            for n in crashes(lambda: self.discard(rename_folders)):  # noqa: B023
                if self.is_there():
                    self.assert_complete(n)
                shutil.rmtree(self.path, ignore_errors=True)
                self.commit()
            self.assertFalse(os.path.exists(self.path))

    def test_what_crashes_leave_under_other_names_is_removed(self):
        self.commit()
        os.makedirs(self.path + "-2.partial/x")
        atomic.remove_staged_folders(str(self.folder))
        self.assertEqual(os.listdir(self.folder), ["made"])
        atomic.remove_staged_folders(self.path + "-missing")

    def test_the_content_reaches_the_disk_before_the_name_and_the_name_before_the_return(self):
        order = order_of_disk(self.commit)
        self.assertEqual(order[-2:], ["rename made.partial made", "sync folder"])
        synced = {f"sync {name}" for name in (*self.FILES, "made.partial")}
        self.assertContainsSubset(synced, order[:-2])

    def test_other_errors_are_not_hidden(self):
        with (
            mock.patch.object(os, "replace", side_effect=PermissionError),
            self.assertRaises(PermissionError),
        ):
            self.commit()
        self.assertFalse(self.is_there())

    def test_new_folders_and_those_they_lie_in_reach_the_disk(self):
        path = str(self.folder / "b" / "c")
        self.assertEqual(order_of_disk(lambda: atomic.make_folder(path)), ["sync folder", "sync b"])
        self.assertEmpty(order_of_disk(lambda: atomic.make_folder(path)))


class OwnerTest(AtomicTest):
    def setUp(self):
        super().setUp()
        self.path = str(self.folder / "owned" / "about.json")
        self.note = pathlib.Path(self.path).parent / "note"

    def refuse(self, owner, **options):
        atomic.refuse_foreign(self.path, owner, "--output", "features", **options)

    def test_a_folder_of_another_job_is_refused(self):
        self.refuse({"seed": 1, "model": "a"})
        self.note.touch()
        self.refuse({"seed": 1, "model": "b"}, free=("model",))
        with self.assertRaisesRegex(ConfigError, "other features .different: model, seed."):
            self.refuse({"seed": 2, "model": "b"})
        self.assertTrue(self.note.exists())

    def test_a_folder_with_other_files_is_refused(self):
        self.note.parent.mkdir()
        self.note.touch()
        with self.assertRaisesRegex(ConfigError, "holds other files; use another --output"):
            self.refuse({"seed": 1})

    def test_a_folder_on_no_file_system_is_refused(self):
        self.path = "s3://b/run/about.json"
        with self.assertRaisesRegex(ConfigError, r"--output=s3://b/run .*mount the bucket"):
            self.refuse({})

    def test_after_a_crash_the_same_job_is_not_refused(self):
        for _ in crashes(lambda: self.refuse({"seed": 1})):
            self.refuse({"seed": 1})
            shutil.rmtree(self.note.parent)

    def test_a_folder_of_another_job_is_emptied(self):
        jobs = [{"seed": 1, "worker": (0, 2)}, {"seed": 2, "worker": (0, 2)}]
        atomic.reset_foreign(self.path, jobs[0])
        self.note.touch()
        atomic.reset_foreign(self.path, dict(jobs[0]))
        self.assertTrue(self.note.exists())
        atomic.reset_foreign(self.path, jobs[1])
        self.assertFalse(self.note.exists())
        self.note.touch()
        pathlib.Path(self.path).write_text('{"seed": 2')
        atomic.reset_foreign(self.path, jobs[1])
        self.assertFalse(self.note.exists())

    def test_after_a_crash_nothing_of_another_job_is_taken_for_ones_own(self):
        def work():
            atomic.reset_foreign(self.path, {"seed": 2})

        for n in crashes(work):
            if os.path.exists(self.path) and atomic.read_json(self.path) == {"seed": 2}:
                self.assertFalse(self.note.exists(), n)
            shutil.rmtree(self.note.parent, ignore_errors=True)
            atomic.reset_foreign(self.path, {"seed": 1})
            self.note.touch()


class LockTest(AtomicTest):
    def test_a_lock_that_is_held_names_its_holder(self):
        path = str(self.folder / "lock")
        with atomic.locked(path, "the run"):
            with self.assertRaisesRegex(ConfigError, f"the run is in use by process {os.getpid()}"):
                with atomic.locked(path, "the run"):
                    pass
        with atomic.locked(path, "the run"):
            pass


if __name__ == "__main__":
    tf.test.main()
