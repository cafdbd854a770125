"""What a data set is said to hold."""

import json
import os
from unittest import mock

import numpy as np
import pictures
import tensorflow as tf
from PIL import Image, ImageDraw

from dc_tf.data.inspection import as_text, contact_sheet, examples, inspect
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.writer import DatasetWriter


class InspectionTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.get_temp_dir(), "data")
        names = ["cat", "dog", "none of these"]
        with DatasetWriter(self.path, names, rows_per_shard=20, overwrite=True) as writer:
            for row in range(50):
                form, size = ("PNG", (10, 30)) if row % 5 == 0 else ("JPEG", (20, 12))
                meta = {"camera": f"K{row}\0"} if row % 2 else {}
                label = None if row % 10 == 9 else int(row % 5 == 0)
                writer.write(pictures.encoded(row, form, size), label, f"{row}", meta)

    def test_counts_are_exact_and_the_sample_says_the_rest(self):
        report = json.loads(json.dumps(inspect(self.path)))
        self.assertEqual((report["rows"], report["shards"]), (50, 3))
        sizes = sum(os.path.getsize(Dataset.open(self.path).shard_path(n)) for n in range(3))
        self.assertEqual(report["bytes"], sizes)
        index = np.concatenate([Dataset.open(self.path).index(n) for n in range(3)])
        self.assertEqual(report["record_bytes"]["least"], index[:, 1].min())
        self.assertEqual(report["record_bytes"]["most"], index[:, 1].max())
        self.assertEqual(sum(report["record_bytes"]["up_to"].values()), 50)
        labels = report["labels"]
        self.assertEqual(labels["top"], {"cat": 35, "dog": 10})
        self.assertEqual(
            (labels["labelled"], labels["classes"], labels["empty_classes"]), (45, 3, 1)
        )
        sample = report["sample"]
        self.assertEqual((sample["rows"], sample["corrupt"]), (50, 0))
        self.assertEqual(sample["formats"], {"JPEG": 40, "PNG": 10})
        self.assertEqual(sample["width"][0], 12)
        self.assertEqual(sample["width"][-1], 30)
        self.assertEqual(sample["meta"]["camera"]["coverage"], 0.5)
        text = as_text(report)
        for expected in (
            "50 in 3 shards",
            "cat 35, dog 10",
            "JPEG 40, PNG 10",
            "meta/camera",
            "50%",
        ):
            self.assertIn(expected, text)
        self.assertNotIn("\0", text)

    def test_a_sample_is_spread_over_all_rows_and_corrupt_rows_do_not_stop_it(self):
        dataset = Dataset.open(self.path)
        os.truncate(dataset.shard_path(2), 50)
        rows = [row for row, _ in examples(dataset, 5)]
        self.assertEqual(rows, [0, 12, 24, 36, 49])
        report = inspect(self.path, sample=50)
        self.assertEqual(report["sample"]["corrupt"], 10)
        self.assertIn("10 of them corrupt", as_text(report))

    def test_a_sheet_names_row_class_and_file_of_each_image(self):
        example = {"encoded": pictures.encoded(), "label": 1, "source": "dog/rex.jpg"}
        drawn = []
        with mock.patch.object(
            ImageDraw.ImageDraw, "text", lambda self, at, line, **_: drawn.append(line)
        ):
            path = os.path.join(self.get_temp_dir(), "sheet.png")
            others = [{**example, "label": None, "source": "long " * 9 + "name.jpg"}, None]
            contact_sheet(enumerate([example, *others]), ["cat", "dog"], path)
        self.assertEqual(drawn[:3], ["row 0", "dog", "rex.jpg"])
        self.assertEqual(drawn[3:5], ["row 1", "no label"])
        self.assertRegex(drawn[5], "^….*name.jpg$")
        self.assertEqual(drawn[6], "row 2 corrupt")

    def test_a_sheet_shows_the_images_it_can(self):
        dataset = Dataset.open(self.path)
        os.truncate(dataset.shard_path(2), 50)
        path = os.path.join(self.get_temp_dir(), "sheet.png")
        contact_sheet(examples(dataset, 20), dataset.class_names, path)
        with Image.open(path) as sheet:
            self.assertEqual(sheet.size, (1024, 3 * 170))
            self.assertGreater(len(sheet.getcolors(1 << 24)), 1000)


if __name__ == "__main__":
    tf.test.main()
