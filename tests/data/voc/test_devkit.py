import os
import tempfile

import devkit
import numpy as np
import pictures
import tensorflow as tf

from dc_tf.data.voc import annotations
from dc_tf.data.voc.devkit import find_folder, read_splits
from dc_tf.errors import ConfigError, DataError

SIZE = (30, 40)


class VocTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name

    def add(self, name, objects, size=SIZE, extra=""):
        data = pictures.encoded(form="JPEG", size=SIZE)
        pictures.write(self.root, f"VOC2007/JPEGImages/{name}.jpg", data)
        return devkit.write_annotation(self.root, name, objects, size, extra)

    def listed(self, *names, split="test"):
        devkit.write_list(self.root, split, names)

    def read(self, *names):
        return read_splits(self.root, names or ("test",))

    def test_boxes_count_from_zero_and_end_behind_their_last_pixel(self):
        self.add("a", [("cat", (1, 1, 40, 30), False), ("dog", (11, 6, 11, 10), True)])
        self.listed("a")
        (split,) = self.read()
        self.assertEqual(split.classes, ("cat", "dog"))
        self.assertAllEqual(split.objects[0].boxes, [[0, 0, 30, 40], [5, 10, 10, 11]])
        self.assertAllEqual(split.objects[0].classes, [0, 1])
        self.assertAllEqual(split.objects[0].difficult, [False, True])
        self.assertAllEqual(split.sizes, [SIZE])

    def test_a_class_with_difficult_objects_only_is_not_counted(self):
        box = (1, 1, 5, 5)
        self.add("a", [("cat", box, True), ("dog", box, True), ("dog", box, False)])
        self.add("b", [("cat", box, False)])
        self.add("c", [])
        self.listed("a", "b", "c")
        (split,) = self.read()
        self.assertAllEqual(split.presence(), [[-1, 1], [1, 0], [0, 0]])

    def test_classes_are_the_same_in_every_split(self):
        self.add("a", [("zebra", (1, 1, 5, 5), False)])
        self.add("b", [("ant", (1, 1, 5, 5), False)])
        self.listed("a", split="train")
        self.listed("b", split="val")
        train, val = self.read("train", "val")
        self.assertEqual(train.classes, ("ant", "zebra"))
        self.assertAllEqual(train.presence(), [[0, 1]])
        self.assertAllEqual(val.presence(), [[1, 0]])

    def test_lists_of_classes_decide_where_there_are_any(self):
        devkit.draw(self.root, {"test": 2})
        devkit.write_list(self.root, "potted_plant_test", ["test0000 -1", "test0001 -1"])
        (split,) = self.read()
        self.assertEqual(split.classes, ("across", "down", "potted_plant"))

    def test_a_class_without_a_list_is_refused(self):
        devkit.draw(self.root, {"test": 2})
        self.add("test0001", [("cat", (1, 1, 5, 5), False)])
        with self.assertRaisesRegex(DataError, "test0001 .*'cat'.*across, down"):
            self.read()

    def test_parts_of_an_object_are_no_objects(self):
        part = (
            "<object><name>person</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>"
            "<ymax>9</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
            "<xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
        )
        self.add("a", [], extra=part)
        self.listed("a")
        self.assertEqual(self.read()[0].classes, ("person",))

    def test_the_folder_may_be_the_set_or_hold_it(self):
        devkit.draw(self.root, {"test": 1})
        inner = os.path.join(self.root, "VOC2007")
        self.assertEqual(find_folder(self.root), inner)
        self.assertEqual(find_folder(inner), inner)
        os.rename(inner, os.path.join(self.root, "other"))
        self.assertEqual(find_folder(self.root), os.path.join(self.root, "other"))
        for wrong in (
            os.path.join(self.root, "nowhere"),
            os.path.join(self.root, "other/JPEGImages"),
        ):
            with self.assertRaisesRegex(ConfigError, "ImageSets/Main"):
                find_folder(wrong)

    def test_what_is_missing_is_named(self):
        self.add("a", [("cat", (1, 1, 5, 5), False)])
        self.listed("a")
        with self.assertRaisesRegex(ConfigError, "no image set 'val'.*it has test"):
            self.read("val")
        self.listed("a", "b")
        with self.assertRaisesRegex(DataError, "b.jpg is missing"):
            self.read()
        pictures.write(self.root, "VOC2007/JPEGImages/b.jpg", pictures.encoded(size=SIZE))
        with self.assertRaisesRegex(DataError, "b.xml is missing"):
            self.read()
        pictures.write(self.root, "VOC2007/JPEGImages/b.jpg", b"no image")
        with self.assertRaisesRegex(DataError, "b.jpg cannot be read"):
            self.read()

    def test_lists_that_lead_elsewhere_or_nowhere_are_refused(self):
        for lines, said in {
            ("../secret",): "without a suffix",
            ("..",): "without a suffix",
            (): "names no image",
            ("a", "a"): "twice",
        }.items():
            self.listed(*lines)
            os.makedirs(os.path.join(self.root, "VOC2007/JPEGImages"), exist_ok=True)
            os.makedirs(os.path.join(self.root, "VOC2007/Annotations"), exist_ok=True)
            with self.assertRaisesRegex(DataError, said):
                self.read()

    def test_annotations_that_cannot_be_are_refused(self):
        self.listed("a")
        one = "<object><name>cat</name><bndbox>{}</bndbox></object>"
        box = "<xmin>{}</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax>"
        for extra, said in {
            "<object></object>": "without <name>",
            "<object><name>cat</name></object>": "without <bndbox>",
            one.format("<xmin>1</xmin>"): "without <ymin>",
            one.format(box.format("wide")): "'wide'; expected a number",
            one.format(box.format("nan")): "expected a number",
            one.format(box.format("1e300")): "expected a number",
            one.format(box.format("9")): r"from \(9, 1\) to \(5, 5\)",
            "<size>": "is not XML: mismatched tag",
        }.items():
            self.add("a", [], extra=extra)
            with self.assertRaisesRegex(DataError, f"a.xml .*{said}"):
                self.read()
        self.add("a", [], size=(31, 40))
        with self.assertRaisesRegex(DataError, "of an image of 40x31 pixels; .* has 40x30"):
            self.read()

    def test_entities_are_never_expanded(self):
        laughs = "".join(
            f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "lol"}">' for i in range(10)
        )
        for doctype in (f"<!DOCTYPE annotation [{laughs}]>", '<!DOCTYPE a SYSTEM "file:///x">'):
            with self.assertRaisesRegex(ValueError, "document type"):
                annotations.parse(f"{doctype}<annotation>&l9;</annotation>".encode())
        with self.assertRaisesRegex(ValueError, "is not XML: undefined entity"):
            annotations.parse(b"<annotation>&other;</annotation>")
        with self.assertRaisesRegex(ValueError, "more than"):
            annotations.parse(b" " * (annotations.MAX_BYTES + 1))
        with self.assertRaisesRegex(ValueError, "is a <html>"):
            annotations.parse(b"<html/>")

    def test_real_images_of_cells_are_read(self):
        train, test = read_splits(devkit.cells(self.root), ("train", "test"))
        self.assertEqual(train.classes, ("Platelets", "RBC", "WBC"))
        self.assertEqual((len(train), len(test)), (205, 72))
        self.assertAllEqual((train.presence() == 1).sum(0), [117, 197, 204])
        self.assertEqual(sum(len(o.classes) for o in test.objects), 805 + 71 + 69)
        self.assertAllEqual(np.unique(train.sizes, axis=0), [[480, 640]])


if __name__ == "__main__":
    tf.test.main()
