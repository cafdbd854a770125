"""Columns of labels and metadata, and colours, from one pass over the records."""

import os
import tempfile

import clustered
import numpy as np
import tensorflow as tf

from dc_tf.data.storage.manifest import Dataset
from dc_tf.report.columns import read


class ColumnsTest(tf.test.TestCase):
    def read(self, meta, rows=30, coloured=()):
        path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "data")
        dataset = Dataset.open(clustered.write_data(path, rows=rows, meta=meta))
        return read(dataset, np.arange(rows), np.asarray(coloured, np.int64))

    def test_values_are_numbers_of_texts_and_the_label_comes_first(self):
        found = self.read(clustered.photo)
        self.assertEqual([*found.columns], ["label", "camera", "hashtags", "place", "user"])
        camera = found.columns["camera"]
        self.assertEqual([camera.texts[code] for code in camera.codes[:3]], ["new", "old", "new"])
        self.assertEqual(found.columns["label"].texts, ["cat", "dog"])
        self.assertEqual(found.columns["place"].texts, ["10° N, 4° W", "11° N, 4° W"])

    def test_measurements_and_texts_of_single_images_are_left_out(self):
        found = self.read(lambda row: {"exposure": row / 7, "title": f"title {row}", "kind": "a"})
        self.assertEqual([*found.columns], ["label", "kind"])
        self.assertEqual(found.left_out, ["exposure", "title"])

    def test_an_image_with_several_values_has_its_rarest(self):
        tags = [["sea", "dog"], ["sea"], ["sea", "cat"], None]
        found = self.read(lambda row: {"tag": tags[row]} if tags[row] else {}, rows=4)
        column = found.columns["tag"]
        rarest = column.rarest(4)
        self.assertEqual([column.texts[code] for code in rarest[:3]], ["dog", "sea", "cat"])
        self.assertEqual(rarest[3], -1)
        self.assertEqual(column.known(), 3)

    def test_colours_are_of_the_rows_asked_for(self):
        found = self.read(None, rows=4, coloured=[0, 3])
        self.assertAllClose(found.colours[0], [30, 180, 60], atol=12)
        self.assertAllClose(found.colours[3], [200, 40, 40], atol=12)
        self.assertTrue(np.isnan(found.colours[1:3]).all())

    def test_strange_values_are_no_error(self):
        strange = {"latitude": float("inf"), "longitude": 1.0, "label": "mine", "tags": []}
        found = self.read(lambda row: strange, rows=3)
        self.assertEqual([*found.columns], ["label"])
        self.assertEqual(found.columns["label"].texts, ["cat", "dog"])
        self.assertEqual(found.left_out, ["latitude", "longitude"])

    def test_records_that_name_ever_new_columns_do_not_add_them_all(self):
        found = self.read(lambda row: {f"own{row}.{n}": "a" for n in range(20)}, rows=30)
        self.assertLessEqual(len(found.columns), 65)


if __name__ == "__main__":
    tf.test.main()
