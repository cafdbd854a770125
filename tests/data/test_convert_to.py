"""A data set as tar files and as a folder of images, and back to the same data set."""

import contextlib
import io
import json
import os
import tarfile
import tempfile
import unittest
from unittest import mock

import pictures

import dc_tf
from dc_tf.commands.main import main
from dc_tf.data.convert import convert
from dc_tf.data.storage import image_folder
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.view import write_view
from dc_tf.data.storage.writer import DatasetWriter
from dc_tf.data.storage.written import Written, described, folder_names, restored
from dc_tf.errors import ConfigError, Preempted

# Not in alphabetical order, with names that no folder can have; the last one has no image.
CLASSES = ("sea/side", "train", "café", "cafÉ", "Boat")
# (label, metadata) of each row; some names are those of our own columns.
ROWS = [
    (2, {"camera": "K1000", "year": 1984, "f": 2.5, "hashtag": ["a", "b"]}),
    (0, {"source": "the web", "class": "other", "label": 7, "path": "x/y"}),
    (None, {"class": "none"}),
    (3, {}),
    (1, {"n": [1, 2]}),
    (0, {"text": 'ü, "quoted"'}),
    (None, {}),
]
INPUTS = {"webdataset": "*.tar", "folder": "images.jsonl"}


class ConvertToTest(unittest.TestCase):
    def setUp(self):
        super().setUp()
        self.root = self.enterContext(tempfile.TemporaryDirectory())
        self.data = self.write("data", CLASSES, ROWS)

    def path(self, *names):
        return os.path.join(self.root, *names)

    def write(self, name, classes, rows):
        with DatasetWriter(self.path(name), classes) as writer:
            for number, (label, meta) in enumerate(rows):
                form = "PNG" if number % 2 else "JPEG"
                content = pictures.encoded(number, form)
                writer.write(content, label, f"there/{number}.{form.lower()}", meta)
        return self.path(name)

    def to(self, form, input=None, output=None, **options):
        output = output or self.path(form)
        result = convert(input or self.data, output, to=form, progress=False, **options)
        return output, result

    def back(self, form, output):
        place = self.path(f"back_{form}_{len(os.listdir(self.root))}")
        convert(os.path.join(output, INPUTS[form]), place, workers=1, progress=False)
        return Dataset.open(place)

    def assert_same(self, found, expected):
        self.assertEqual(found.class_names, expected.class_names)
        both = zip(pictures.examples(found.path), pictures.examples(expected.path), strict=True)
        for one, other in both:
            self.assertEqual(one, other)

    def test_the_way_there_and_back_gives_the_same_data_set(self):
        for form in INPUTS:
            output, result = self.to(form, rows_per_shard=3)
            self.assertEqual(result["rows"], len(ROWS))
            self.assert_same(self.back(form, output), Dataset.open(self.data))

    def test_a_view_and_a_data_set_without_labels_come_back(self):
        write_view(Dataset.open(self.data), [5, 2, 0], self.path("view"))
        plain = self.write("plain", None, [(None, {}), (None, {"a": 1})])
        numbered = self.write("numbered", None, [(4, {}), (None, {}), (1, {})])
        for data in (self.path("view"), plain, numbered):
            for form in INPUTS:
                output = self.path(f"{form}_of_{os.path.basename(data)}")
                self.to(form, data, output)
                self.assert_same(self.back(form, output), Dataset.open(data))

    def test_a_folder_gives_the_same_classes_by_its_folders(self):
        output, _ = self.to("folder")
        place = self.path("by_folders")
        convert(output, place, labels_from_folders=True, workers=1, progress=False)
        found, expected = Dataset.open(place), Dataset.open(self.data)
        self.assertEqual(found.class_names, expected.class_names)
        self.assertEqual(found.rows, expected.rows)
        pairs = [(example["source"], example["label"]) for example in pictures.examples(place)]
        for source, label in pairs:
            row = int(os.path.basename(source).partition(".")[0])
            self.assertEqual(label, ROWS[row][0])

    def test_tars_have_what_other_programs_read(self):
        output, _ = self.to("webdataset")
        with tarfile.open(os.path.join(output, "00000.tar")) as tar:
            names = tar.getnames()
            self.assertEqual(names[:3], ["000000000.jpg", "000000000.cls", "000000000.json"])
            self.assertNotIn("000000002.cls", names)
            self.assertEqual(tar.extractfile("000000000.cls").read(), b"2")
            values = json.load(tar.extractfile("000000000.json"))
        self.assertEqual((values["camera"], values["class"]), ("K1000", "café"))

    def test_an_interrupted_call_resumes(self):
        whole, _ = self.to("folder", rows_per_shard=2, output=self.path("whole"))
        original, calls = image_folder._write, []

        def stop_at_the_fourth(path, content):
            calls.append(path)
            if len(calls) == 4:
                raise Preempted("asked to stop")
            original(path, content)

        with mock.patch.object(image_folder, "_write", stop_at_the_fourth):
            with self.assertRaises(Preempted):
                self.to("folder", rows_per_shard=2, output=self.path("parts"))
            self.to("folder", rows_per_shard=2, output=self.path("parts"))
        self.assertEqual(pictures.files(self.path("parts")), pictures.files(whole))
        self.assertEqual(len(calls), 4 + len(ROWS) - 2)  # the first block of two had stayed

    def test_another_data_set_replaces_what_was_written_only_if_asked(self):
        few = self.write("few", CLASSES, ROWS[:2])
        for form in INPUTS:
            output, _ = self.to(form)
            pictures.write(output, "mine.txt", b"x")
            with self.assertRaisesRegex(ConfigError, "holds other .*use another --output"):
                self.to(form, few)
            self.to(form, few, overwrite=True)
            self.assert_same(self.back(form, output), Dataset.open(few))
            self.assertTrue(os.path.exists(os.path.join(output, "mine.txt")))

    def test_what_cannot_work_is_refused(self):
        os.makedirs(self.path("photos"))
        for flags, message in (
            ((f"--input={self.path('photos')}",), "--to=folder writes a data set or view"),
            ((f"--input={self.data}", "--short_side=3"), "--short_side is for conversions to a"),
            ((f"--input={self.data}", "--labels_from_folders"), "--labels_from_folders is for"),
        ):
            err = io.StringIO()
            with contextlib.redirect_stderr(err):
                code = main(["convert", "--to=folder", f"--output={self.path('x')}", *flags])
            self.assertEqual(code, 2)
            self.assertIn(message, err.getvalue())
        with self.assertRaisesRegex(ConfigError, "to is 'zip'; use webdataset or folder"):
            dc_tf.convert(self.data, self.path("x"), to="zip")
        with self.assertRaisesRegex(ConfigError, "is the data set that the rows are of"):
            self.to("folder", output=self.data, overwrite=True)


class WrittenTest(unittest.TestCase):
    def test_rows_are_restored_whatever_their_metadata_is_named(self):
        for label, meta in ROWS:
            example = {"label": label, "source": "s", "meta": meta, "encoded": b""}
            row = restored(described(example, CLASSES, path="p", label=label))
            self.assertEqual(tuple(row), (label, "s", meta))

    def test_what_others_have_written_is_left_to_them(self):
        for values in ({}, {"dc_tf": 3}, {"dc_tf": {}}, {"dc_tf": {"source": "a", "label": -1}}):
            self.assertIsNone(restored(values))

    def test_folders_have_names_that_differ_on_every_disk(self):
        names = folder_names(("a/b", "A_b", "..", "x" * 300, "a_b", " ", "__MACOSX"))
        self.assertEqual(list(names.values()), list(range(7)))
        self.assertEqual(len({name.casefold() for name in names}), 7)
        for name in names:
            self.assertFalse(set(name) & set("/\\") or name.startswith(".") or len(name) > 210)

    def test_a_file_of_another_program_says_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            self.assertIsNone(Written.beside(folder, "folder.json"))
            for content in (b"[", b"[]", b'{"made_by": "x"}', b'{"made_by": "dc_tf"}'):
                pictures.write(folder, "folder.json", content)
                self.assertIsNone(Written.beside(folder, "folder.json"))


if __name__ == "__main__":
    unittest.main()
