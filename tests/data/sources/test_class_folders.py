"""Folders that are classes, and folders that only look like them: splits, and one around all."""

import os
import tempfile
import unittest
import zipfile

import pictures

from dc_tf.data.sources.class_folders import is_split
from dc_tf.data.sources.open import open_source
from dc_tf.errors import ConfigError


class ClassFoldersTest(unittest.TestCase):
    """Each case as a folder and as a zip of it."""

    def setUp(self):
        self.folder = tempfile.mkdtemp()

    def inputs(self, *names):
        folder = tempfile.mkdtemp(dir=self.folder)
        for name in names:
            pictures.write(folder, name, b"x")
        archive = folder + ".zip"
        with zipfile.ZipFile(archive, "w") as file:
            for name in names:
                file.writestr(name, b"x")
        return folder, archive

    def labels(self, input, **settings):
        source = open_source(input, labels_from_folders=True, progress=False, **settings)
        return source.class_names, [(item.name, item.label) for item in source.items()]

    def refused(self, message, *names, **settings):
        for input in self.inputs(*names):
            with self.assertRaisesRegex(ConfigError, message):
                self.labels(input, **settings)

    def test_splits_are_not_classes_and_what_works_is_said(self):
        for splits in (("train", "val"), ("Training", "Testing"), ("train", "valid", "test")):
            names = [f"{split}/{name}/1.jpg" for split in splits for name in ("cat", "dog")]
            best = next(name for name in splits if name.lower().startswith("train"))
            self.refused(
                f"splits and not classes; use --split={best} to convert .*/{best} ", *names
            )
            self.refused("splits", *names, "README.md", "labels.txt")
            self.refused("splits", *names, "annotations/1.xml")
        self.refused("use --split=train2017", "train2017/cat/1.jpg", "val2017/cat/1.jpg")
        self.refused("use --split=train", "train/cat/1.jpg")
        self.refused("use --split=train", "train/cat/1.jpg", "annotations/1.xml")
        self.refused("no sub-folders; unset", "train/1.jpg", "test/1.jpg")

    def test_a_class_may_have_the_name_of_a_split(self):
        for input in self.inputs("bus/1.jpg", "car/1.jpg", "train/1.jpg"):
            self.assertEqual(self.labels(input)[0], ["bus", "car", "train"])

    def test_a_single_folder_around_the_classes_is_recognised(self):
        self.refused("one class .*'images'.*--split=images", "images/a/1.jpg", "images/b/1.jpg")
        for input in self.inputs("images/a/1.jpg", "images/b/1.jpg"):
            names, items = self.labels(input, split="images")
            self.assertEqual((names, items), (["a", "b"], [("a/1.jpg", 0), ("b/1.jpg", 1)]))
        self.refused("--split=x/images ", "x/images/a/1.jpg", "x/images/b/1.jpg", split="x")
        for input in self.inputs("a/1.jpg", "2.jpg"):
            self.assertEqual(self.labels(input), (["a"], [("2.jpg", None), ("a/1.jpg", 0)]))

    def test_names_that_are_not_utf8_stay_apart(self):
        folder, _ = self.inputs()
        for name in (b"B\xe4r", b"B\xf6r", "Bär".encode()):
            os.makedirs(os.path.join(os.fsencode(folder), name))
            with open(os.path.join(os.fsencode(folder), name, b"1.jpg"), "wb"):
                pass
        names, items = self.labels(folder)
        self.assertCountEqual(names, ["B\\xe4r", "B\\xf6r", "Bär"])
        self.assertEqual([names[label] for _, label in items], names)
        os.makedirs(os.path.join(folder, "B\\xe4r"))
        pictures.write(folder, "B\\xe4r/1.jpg", b"")
        with self.assertRaisesRegex(ConfigError, "two folders would become one class"):
            self.labels(folder)

    def test_splits_number_their_classes_alike(self):
        names = ["train/a/1.jpg", "train/b/1.jpg", "val/b/1.jpg", "val/c/1.jpg", "test/1.jpg"]
        for input in self.inputs(*names):
            self.assertEqual(self.labels(input, split="train")[0], ["a", "b", "c"])
            expected = (["a", "b", "c"], [("b/1.jpg", 1), ("c/1.jpg", 2)])
            self.assertEqual(self.labels(input, split="val"), expected)
            with self.assertRaisesRegex(ConfigError, "test has no sub-folders"):
                self.labels(input, split="test")
            with self.assertRaisesRegex(ConfigError, "'tset'.*folders are test, train, val"):
                self.labels(input, split="tset")

    def test_what_has_no_folders_has_no_splits(self):
        path = pictures.write(self.folder, "list.csv", "path\na\n")
        for settings, name in [
            ({"split": "a"}, "split"),
            ({"labels_from_folders": True}, "labels"),
        ]:
            with self.assertRaisesRegex(ConfigError, f"{name}.*needs a folder or a zip"):
                open_source(path, progress=False, **settings)

    def test_without_labels_splits_are_named_and_converted(self):
        for input in self.inputs("train/1.jpg", "val/1.jpg"):
            with self.assertLogs("absl", "WARNING") as logs:
                source = open_source(input, progress=False)
            self.assertIn("--split=train", logs.output[0])
            self.assertEqual(source.total, 2)

    def test_names_of_splits(self):
        for name in ("train", "Val", "test2017", "test_images", "training-set", "valid"):
            self.assertTrue(is_split(name), name)
        for name in ("trains", "testudo", "value", "evaluate", "dog", "train station"):
            self.assertFalse(is_split(name), name)


if __name__ == "__main__":
    unittest.main()
