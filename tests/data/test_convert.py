"""From a source to a data set: what is converted, what is listed, and in which order."""

import errno
import fcntl
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from unittest import mock

import numpy as np
import pictures
import pytest
import real_data
import tensorflow as tf
from PIL import Image

import dc_tf
from dc_tf.data import convert as convert_lib
from dc_tf.data.convert import convert
from dc_tf.data.input.pipeline import evaluation_batches
from dc_tf.data.sources import image_files
from dc_tf.data.storage import files, staging, writer
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.data.storage.verify import verify
from dc_tf.errors import ConfigError, DataError

CRASHING = """
import os, signal
from dc_tf.data.sources import image_files

def clean_all(paths, rules):
    if any(path.endswith("17.png") for path in paths):
        os.kill(os.getpid(), signal.SIGKILL)
    return [image_files.clean(path, rules) for path in paths]
"""

SLOW = """
import sys, time
from dc_tf.data.sources import image_files
from dc_tf.data.convert import convert

def clean_all(paths, rules):
    time.sleep(0.2)
    return [image_files.clean(path, rules) for path in paths]

if __name__ == "__main__":
    image_files.clean_all = clean_all
    convert(sys.argv[1], sys.argv[2], rows_per_shard=8, workers=2, progress=False)
"""


class Folder(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.input = os.path.join(self.get_temp_dir(), "in")
        self.output = os.path.join(self.get_temp_dir(), "out")
        os.makedirs(self.input)

    def write(self, name, data=None):
        seed = sum(map(ord, name))
        return pictures.write(self.input, name, pictures.encoded(seed) if data is None else data)

    def convert(self, **settings):
        return convert(self.input, self.output, **{"workers": 1, "progress": False, **settings})


def without_processes(function, lists, *_, **__):
    """`map_lists` in this process, which is quicker."""
    for items in lists:
        yield from function(items)


class ConvertTest(Folder):
    def test_rows_are_in_the_order_of_their_paths_with_labels_from_folders(self):
        for number in range(40):
            self.write(f"{'dog' if number % 3 else 'cat'}/{number:02d}.png")
        self.write("cat.jpg")
        outcomes = []
        for workers in (1, 3):
            result = self.convert(
                labels_from_folders=True, rows_per_shard=16, workers=workers, overwrite=True
            )
            outcomes.append(pictures.files(self.output))
        self.assertEqual((result["rows"], result["rejected"], result["classes"]), (41, 0, 2))
        self.assertEqual(outcomes[0], outcomes[1])
        self.assertEqual(pictures.rejected(self.output), {})
        sources = pictures.sources(self.output)
        self.assertEqual(sources, sorted(sources))
        expected = [{"cat": 0, "dog": 1}.get(source.split("/")[0], -1) for source in sources]
        self.assertEqual(Dataset.open(self.output).labels().tolist(), expected)
        self.assertEqual(Dataset.open(self.output).class_names, ("cat", "dog"))

    def test_every_file_is_a_row_or_listed_with_a_reason(self):
        self.write("good.png")
        self.write("text.jpg", b"<html>")
        self.write("empty.jpg", b"")
        self.write(".hidden.png", b"")
        self.write("__MACOSX/._good.png", b"")
        os.symlink("nowhere", os.path.join(self.input, "link.png"))
        os.mkfifo(os.path.join(self.input, "pipe.png"))
        os.symlink("..", os.path.join(self.input, "loop"))
        self.addCleanup(os.remove, os.path.join(self.input, "loop"))
        os.symlink("itself", os.path.join(self.input, "itself"))
        result = self.convert()
        self.assertEqual(pictures.sources(self.output), ["good.png"])
        self.assertEqual(result["rejected"], 7)
        reasons = pictures.rejected(self.output)
        self.assertRegex(reasons["empty.jpg"], "empty file")
        self.assertRegex(reasons[".hidden.png"], "hidden file")
        self.assertIn("not an image", reasons["text.jpg"])
        self.assertIn("regular", reasons["pipe.png"])
        self.assertIn("no such file", reasons["link.png"])
        self.assertIn("leads back to itself", reasons["itself"])
        self.assertIn("__MACOSX/._good.png", reasons)

    def test_the_first_of_duplicates_stays_whatever_the_number_of_processes(self):
        for number in range(60):
            self.write(f"{number:02d}.png", pictures.encoded(number % 23))
        outcomes = []
        for workers in (1, 2):
            self.convert(drop_duplicates=True, workers=workers, rows_per_shard=10, overwrite=True)
            outcomes.append(pictures.files(self.output))
        self.assertEqual(outcomes[0], outcomes[1])
        self.assertEqual(pictures.sources(self.output), [f"{n:02d}.png" for n in range(23)])
        expected = {f"{n:02d}.png": f"duplicate of row {n % 23}" for n in range(23, 60)}
        self.assertEqual(pictures.rejected(self.output), expected)

    def test_blank_images_are_dropped_on_request(self):
        self.write("a.png")
        Image.new("RGB", (5, 5), "blue").save(os.path.join(self.input, "blue.png"))
        self.assertEqual(self.convert()["rows"], 2)
        self.assertEqual(self.convert(drop_blank=True, overwrite=True)["rows"], 1)
        self.assertIn("blank", pictures.rejected(self.output)["blue.png"])

    def replace_decoder(self, code):
        """Lets the pool's processes run `code`, from a module that they can import quickly."""
        folder = os.path.join(self.get_temp_dir(), "modules")
        pictures.write(folder, "crashing.py", code)
        sys.path.insert(0, folder)
        self.addCleanup(sys.path.remove, folder)
        replacement = importlib.import_module("crashing").clean_all
        patch = mock.patch.object(image_files, "clean_all", replacement)
        patch.start()
        self.addCleanup(patch.stop)

    def test_a_file_that_kills_the_decoder_is_listed_and_the_rest_is_read(self):
        for number in range(80):
            self.write(f"{number:02d}.png")
        self.replace_decoder(CRASHING)
        self.convert(workers=2)
        self.assertEqual(list(pictures.rejected(self.output)), ["17.png"])
        self.assertIn("crashed", pictures.rejected(self.output)["17.png"])
        expected = [f"{n:02d}.png" for n in range(80) if n != 17]
        self.assertEqual(pictures.sources(self.output), expected)

    def test_nothing_usable_is_an_error_with_a_reason_and_leaves_nothing(self):
        with self.assertRaisesRegex(DataError, "holds no files"):
            self.convert()
        self.write("text.jpg", b"hello")
        with self.assertRaisesRegex(DataError, "text.jpg: not an image"):
            self.convert()
        self.write("good.png")
        self.assertEqual(self.convert()["rows"], 1)

    def test_what_cannot_work_is_refused_before_anything_is_written(self):
        self.write("a.png")
        for settings, message in [
            (dict(format="gif"), "format is 'gif'"),
            (dict(max_short_side=0), "short_side is 0"),
            (dict(labels_from_folders=True), "no sub-folders"),
            (dict(quality=0), "quality is 0"),
            (dict(encoding="utf-88"), "encoding is 'utf-88'"),
            (dict(split="train"), "split is 'train'"),
            (dict(value_range="white"), "value_range is 'white'"),
            (dict(value_range=(5, 5)), "value_range is"),
        ]:
            with self.assertRaisesRegex(ConfigError, message):
                self.convert(**settings)
        with self.assertRaisesRegex(ConfigError, "does not exist"):
            convert(self.input + "x", self.output, progress=False)
        with self.assertRaisesRegex(ConfigError, "no known kind"):
            convert(__file__, self.output, progress=False)
        with self.assertRaisesRegex(ConfigError, "both"):
            convert(self.input, self.input, overwrite=True, progress=False)
        self.assertFalse(os.path.exists(self.output))
        pictures.write(self.output, "note.txt", b"mine")
        with self.assertRaisesRegex(
            ConfigError, "not empty .it has note.txt.; give a new folder.$"
        ):
            self.convert()

    def test_a_data_set_behind_gfile_is_read_and_written(self):
        for number in range(3):
            folder = f"ram://convert_test/in/{'ab'[number % 2]}"
            tf.io.gfile.makedirs(folder)
            with tf.io.gfile.GFile(f"{folder}/{number}.png", "wb") as file:
                file.write(pictures.encoded(number))
        with mock.patch.object(convert_lib, "map_lists", without_processes):
            result = convert(
                "ram://convert_test/in", "ram://convert_test/out", labels_from_folders=True,
                progress=False,
            )  # fmt: skip
        self.assertEqual(result["rows"], 3)
        self.assertEqual(
            pictures.sources("ram://convert_test/out"), ["a/0.png", "a/2.png", "b/1.png"]
        )

    def test_the_nasty_collection_goes_through(self):
        with zipfile.ZipFile(real_data.archive("nasty.zip")) as file:
            file.extractall(self.input)
        files = [os.path.join(p, n) for p, _, names in os.walk(self.input) for n in names]
        result = self.convert(workers=None, max_short_side=128)
        self.assertEqual(result["rows"] + result["rejected"], len(files))
        listed = {os.path.relpath(path, self.input) for path in files}
        both = set(pictures.sources(self.output)) | set(pictures.rejected(self.output))
        self.assertEqual(both, listed)
        self.assertGreaterEqual(result["rows"], 60)
        reader = RowReader(Dataset.open(self.output))
        for batch in evaluation_batches(reader, np.arange(result["rows"]), 16, 32, 32):
            self.assertAllInRange(batch["image"], 0.0, 1.0)


class Killed(BaseException):
    """Ends a process at a place of the test's choice, without any cleaning up."""


class ResumeTest(Folder):
    SETTINGS = dict(rows_per_shard=4, drop_duplicates=True, labels_from_folders=True)

    def setUp(self):
        super().setUp()
        for number in range(14):
            name = f"{'ab'[number % 2]}/{number:02d}.png"
            self.write(name, b"no" if number in (5, 13) else pictures.encoded(number % 11))
        patch = mock.patch.object(convert_lib, "map_lists", without_processes)
        patch.start()
        self.addCleanup(patch.stop)

    def convert(self, **settings):
        return super().convert(**{**self.SETTINGS, **settings})

    def killed_at(self, number, **settings):
        """Converts until the number-th change on disk, which is not made. False if it came through.

        The lock goes, as it does when a process ends, and nothing else is tidied up.
        """
        changes = iter(range(number))

        def guard(function):
            def guarded(*args, **kwargs):
                if next(changes, None) is None:
                    raise Killed
                return function(*args, **kwargs)

            return guarded

        with mock.patch.object(staging.Staging, "__exit__", lambda self, *_: self._lock.close()):
            with (
                mock.patch.multiple(
                    files,
                    rename=guard(files.rename),
                    write_file=guard(files.write_file),
                    remove=guard(files.remove),
                    remove_folder=guard(files.remove_folder),
                    make_folder=guard(files.make_folder),
                ),
                mock.patch.object(writer._OpenShard, "write", guard(writer._OpenShard.write)),
            ):
                try:
                    self.convert(**settings)
                except Killed:
                    return True
        return False

    def test_killed_anywhere_it_ends_with_the_bytes_of_an_undisturbed_run(self):
        self.convert()
        undisturbed = pictures.files(self.output)
        self.assertNotIn(".writing", os.listdir(self.output))
        kept, number = [], 0
        tf.io.gfile.rmtree(self.output)
        while self.killed_at(number):
            shards = len([n for n in pictures.files(self.output) if n.endswith("index.npy")])
            with mock.patch.object(
                writer._OpenShard, "write", autospec=True, side_effect=writer._OpenShard.write
            ) as write:
                result = self.convert()
            kept.append((shards, write.call_count))
            self.assertEqual(result["rows"], 10, number)
            self.assertEqual(result["rejected"], 4, number)
            self.assertEqual(pictures.files(self.output), undisturbed, number)
            tf.io.gfile.rmtree(self.output)
            number += 1
        self.assertGreater(number, 25)
        # Only what was missing was converted: 10 rows in shards of 4, 4 and 2.
        self.assertContainsSubset({(0, 10), (1, 6), (2, 2), (3, 0)}, set(kept))

    def test_killed_while_replacing_it_never_leaves_a_mixture(self):
        self.write("old.png")
        self.convert(labels_from_folders=False, rows_per_shard=2)
        old = os.path.join(self.get_temp_dir(), "old")
        shutil.copytree(self.output, old)
        os.remove(os.path.join(self.input, "old.png"))
        number, whole = 0, 0
        while self.killed_at(number, overwrite=True):
            try:
                before = Dataset.open(self.output)
            except DataError:
                before = None  # in the middle of the exchange: incomplete, and it says so
            if before is not None:
                self.assertEmpty(list(verify(before, progress=False)))
                whole += 1
            self.convert(overwrite=True)
            self.assertEmpty(list(verify(Dataset.open(self.output), progress=False)))
            self.assertEqual(Dataset.open(self.output).rows, 10)
            tf.io.gfile.rmtree(self.output)
            shutil.copytree(old, self.output)
            number += 1
        self.assertGreater(whole, number // 2)

    def test_a_second_call_of_a_finished_job_does_nothing(self):
        for first, second in [({}, {}), ({"value_range": "0,4095"}, {"value_range": 4095})]:
            result = self.convert(**first, overwrite=True)
            before = os.stat(os.path.join(self.output, "manifest.json")).st_mtime_ns
            self.assertEqual(self.convert(**second), result)
            after = os.stat(os.path.join(self.output, "manifest.json")).st_mtime_ns
            self.assertEqual(after, before)

    def test_another_list_or_other_settings_are_refused_until_overwriting_is_requested(self):
        self.assertTrue(self.killed_at(12))
        with self.assertRaisesRegex(ConfigError, "short_side: None, now 64"):
            self.convert(max_short_side=64)
        self.write("a/99.png")
        with self.assertRaisesRegex(ConfigError, "another input.*source.*--overwrite"):
            self.convert()
        self.assertEqual(self.convert(overwrite=True)["rows"], 11)

    def test_a_shard_that_a_power_cut_took_is_written_again(self):
        self.convert()
        undisturbed = pictures.files(self.output)
        tf.io.gfile.rmtree(self.output)
        number, second = 0, os.path.join(self.output, ".writing", "1.tfrecord")
        while not os.path.exists(second):
            self.assertTrue(self.killed_at(number))
            number += 1
        os.truncate(os.path.join(self.output, ".writing", "0.tfrecord"), 10)
        self.convert()
        self.assertEqual(pictures.files(self.output), undisturbed)

    def test_two_at_the_same_time_are_refused(self):
        with staging.Staging(self.output, {"job": 1}):
            message = f"{self.output} is in use by process {os.getpid()} on .*; wait for it"
            with self.assertRaisesRegex(ConfigError, message):
                staging.Staging(self.output, {"job": 1}).__enter__()
        with staging.Staging(self.output, {"job": 1}):
            pass

    def test_a_file_system_without_locks_is_written_to_with_a_warning(self):
        no_locks = OSError(errno.ENOLCK, "No locks available")
        with mock.patch.object(fcntl, "flock", side_effect=no_locks):
            with self.assertLogs("absl", "WARNING") as logged:
                with staging.Staging(self.output) as begun:
                    begun.write("1.txt", "text")
        self.assertIn(f"{self.output} cannot be locked", logged.output[0])


class SigkillTest(Folder):
    @pytest.mark.merge
    @pytest.mark.slow
    def test_a_real_kill_leaves_no_process_and_the_next_call_finishes(self):
        for number in range(100):
            self.write(f"{number:02d}.png")
        script = pictures.write(self.get_temp_dir(), "slow.py", SLOW)
        root = os.path.dirname(os.path.dirname(dc_tf.__file__))
        process = subprocess.Popen(
            [sys.executable, script, self.input, self.output],
            env={**os.environ, "PYTHONPATH": root},
            start_new_session=True,
        )
        first = os.path.join(self.output, ".writing", "0.json")
        deadline = time.monotonic() + 90
        while not os.path.exists(first) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertTrue(os.path.exists(first))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        while session_is_alive(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertFalse(session_is_alive(process.pid))
        self.assertFalse(os.path.exists(os.path.join(self.output, "manifest.json")))
        self.convert(rows_per_shard=8, workers=2)
        resumed = pictures.files(self.output)
        self.convert(rows_per_shard=8, workers=1, overwrite=True)
        self.assertEqual(pictures.files(self.output), resumed)


def session_is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    tf.test.main()
