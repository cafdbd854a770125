"""`dc_tf predict`: files and data sets get the same answers; what it cannot use has a reason."""

import csv
import json
import os
import shutil
import tempfile
import zipfile

import numpy as np
import pictures
import pyarrow.parquet
import pytest
import tensorflow as tf
from striped import NAMES, RESOLUTION, call, stripes, write_model, write_stripes

import dc_tf
from dc_tf.classification.predict import predict
from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import ConfigError, DataError
from dc_tf.exporting.classifier import ClassifierNetwork, export_classifier
from dc_tf.nn.heads import LinearHead
from dc_tf.nn.vgg16 import VGG16


def write_classifier(path, names=NAMES, **options):
    """An untrained network with a head whose classes differ."""
    trunk = VGG16(width=1 / 16, resolution=RESOLUTION, fc=12, seed=7).built_at_resolution()
    head = LinearHead(12, len(names))
    head.kernel.assign(5 * np.random.default_rng(0).standard_normal(head.kernel.shape, np.float32))
    network = ClassifierNetwork(trunk, head)
    export_classifier(network, list(names), path, 1e-4, short_side=40, **options)
    return path


@pytest.mark.slow
class PredictTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        cls.data = write_stripes(os.path.join(cls.root, "data"), 20, seed=3)
        cls.model = write_classifier(os.path.join(cls.root, "made", "model"))
        cls.folder = os.path.join(cls.root, "images")
        random = np.random.default_rng(3)
        for row in range(20):
            pictures.write(cls.folder, f"{row:02}.png", stripes(row % 2, random))

    def path(self, name):
        return os.path.join(self.root, name)

    def test_files_get_what_their_rows_get_and_the_model_says(self):
        table = self.path("rows.parquet")
        code, out, err = call(
            "predict", f"--model={self.model}", f"--data={self.data}", f"--output={table}"
        )
        self.assertEqual(code, 0, err)
        rows = pyarrow.parquet.read_table(table).to_pydict()
        self.assertEqual(rows["source"], [f"{row}.png" for row in range(20)])
        self.assertEqual(rows["label"], [NAMES[row % 2] for row in range(20)])
        self.assertEqual(rows["reason"], [None] * 20)
        hits = np.mean([a == b for a, b in zip(rows["label"], rows["prediction"], strict=True)])
        result = json.loads(out.splitlines()[-1])
        self.assertAllClose(result["top1"], hits)
        self.assertEqual(sum(result["predicted"].values()), 20)
        files = predict(os.path.dirname(self.model), images=self.folder, batch_size=7)
        lines = files["predictions"]
        self.assertEqual([line["source"] for line in lines], [f"{n:02}.png" for n in range(20)])
        self.assertEqual([line["prediction"] for line in lines], rows["prediction"])
        self.assertAllClose([line["probability"] for line in lines], rows["probability"], atol=1e-5)
        self.assertEqual((files["labelled"], files["top1"]), (0, None))
        loaded = tf.saved_model.load(self.model)
        with open(os.path.join(self.folder, "04.png"), "rb") as file:
            shares = loaded.classify_files([file.read()])
        self.assertAllClose(shares["probabilities"][0].numpy().max(), rows["probability"][4])

    def test_all_kinds_of_files_and_broken_ones(self):
        mixed = self.path("mixed")
        image = os.path.join(self.folder, "05.png")
        pictures.write(mixed, "a/one.png", open(image, "rb").read())
        pictures.write(mixed, "b/broken.jpg", b"\xff\xd8\xff\xe0 no image")
        pictures.write(mixed, "c.txt", "text")
        pictures.write(mixed, "d.bmp", pictures.encoded(0, "BMP"))
        code, out, err = call(
            "predict",
            f"--model={self.model}",
            f"--images={mixed}",
            f"--output={self.path('mixed.csv')}",
        )
        self.assertEqual(code, 0, err)
        result = json.loads(out.splitlines()[-1])
        self.assertEqual((result["images"], result["unusable"]), (4, 2))
        with open(self.path("mixed.csv"), newline="") as file:
            lines = {line["source"]: line for line in csv.DictReader(file)}
        self.assertEqual(list(lines), ["a/one.png", "b/broken.jpg", "c.txt", "d.bmp"])
        self.assertIn(lines["a/one.png"]["prediction"], NAMES)
        self.assertEqual(lines["b/broken.jpg"]["prediction"], "")
        self.assertNotEqual(lines["b/broken.jpg"]["reason"], "")
        with zipfile.ZipFile(self.path("images.zip"), "w") as archive:
            archive.write(image, "x/05.png")
        for given in (image, self.path("images.zip"), os.path.join(self.folder, "05*")):
            (line,) = dc_tf.predict(self.model, images=given)["predictions"]
            self.assertEqual(line["prediction"], lines["a/one.png"]["prediction"])
            self.assertAllClose(line["probability"], float(lines["a/one.png"]["probability"]))

    def test_a_corrupt_row_has_its_reason(self):
        data = self.path("corrupt")
        shutil.copytree(self.data, data)
        dataset = Dataset.open(data)
        _, entries = dataset.locate([2])
        with open(dataset.shard_path(0), "r+b") as file:
            file.seek(int(entries[0, 0]) + 3)
            file.write(b"\0\0\0")
        found = predict(self.model, data=data)
        self.assertEqual((found["images"], found["unusable"]), (20, 1))
        self.assertIsNone(found["predictions"][2]["prediction"])
        self.assertIsNone(found["predictions"][2]["source"])
        self.assertIn("offset", found["predictions"][2]["reason"])

    def test_several_classes_of_an_image(self):
        names = ("a", "b", "c", "d")
        model = write_classifier(self.path("four"), names)
        (line, *_) = predict(model, images=self.folder, top=9)["predictions"]
        self.assertCountEqual(line["top"], names)
        self.assertAllClose(sum(line["top_probabilities"]), 1.0)
        self.assertEqual(line["top"][0], line["prediction"])
        self.assertEqual(line["top_probabilities"], sorted(line["top_probabilities"])[::-1])
        for ending in ("csv", "parquet"):
            table = self.path(f"top.{ending}")
            predict(model, images=self.folder, output=table, top=2)
        self.assertEqual(pyarrow.parquet.read_table(table).to_pydict()["top"][0], line["top"][:2])

    def test_floats_are_taken_as_every_export_takes_them(self):
        images = np.random.default_rng(1).integers(0, 256, (3, 40, 36, 3), np.uint8)
        unit = tf.saved_model.load(self.model)
        path = write_classifier(self.path("of_bytes"), input_range="255")
        of_bytes = tf.saved_model.load(path)
        expected = unit(images)["probabilities"]
        for model, floats in ((unit, images / np.float32(255)), (of_bytes, images * 1.0)):
            self.assertAllClose(model(images)["probabilities"], expected, atol=1e-5)
            self.assertAllClose(model(floats)["probabilities"], expected, atol=1e-5)
        for wrong in (images.astype(np.float32), np.full_like(images, np.nan, np.float32)):
            with self.assertRaisesRegex(tf.errors.InvalidArgumentError, "out of range"):
                unit(wrong)

    def test_what_cannot_work_is_refused(self):
        features = write_model(self.path("features"))
        empty = self.path("empty")
        os.makedirs(empty)
        pictures.write(empty, "x.txt", "text")
        for error, message, arguments in (
            (ConfigError, "no classes; `dc_tf finetune --model=", {"model": features}),
            (ConfigError, "holds no model", {"model": self.folder}),
            (ConfigError, "give --data=DATA", {"data": self.data}),
            (ConfigError, "give --data=DATA", {"images": None}),
            (ConfigError, "--top=0", {"top": 0}),
            (ConfigError, "no known ending", {"output": self.path("x.txt")}),
            (ConfigError, "does not exist", {"images": self.path("absent")}),
            (DataError, "no image of .* can be used", {"images": empty}),
        ):
            with self.assertRaisesRegex(error, message):
                predict(**{"model": self.model, "images": self.folder} | arguments)

    def test_nothing_is_left_of_a_table_without_a_line(self):
        empty, table = self.path("nothing"), self.path("nothing.csv")
        pictures.write(empty, "x.txt", "text")
        with self.assertRaises(DataError):
            predict(self.model, images=empty, output=table)
        self.assertFalse(os.path.exists(table))


if __name__ == "__main__":
    tf.test.main()
