import pathlib
import tempfile

import numpy as np
import tensorflow as tf

from dc_tf.data.storage import schema
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.data.storage.writer import DatasetWriter
from dc_tf.data.train_test_split import held_out_rows, measurable, train_test_split


class HoldOutTest(tf.test.TestCase):
    def test_each_row_goes_to_one_side_with_all_that_is_known_about_it(self):
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()))
        with DatasetWriter(folder / "all", class_names=["a", "b"]) as writer:
            for i in range(20):
                meta = {"camera": f"c{i}", "latitude": 0.5 * i}
                writer.write(f"bytes {i}".encode(), label=i % 2, source=f"{i}.jpg", meta=meta)
        counts = train_test_split(folder / "all", folder / "train", folder / "test", every=5)
        self.assertEqual(counts, {"train": 16, "test": 4})
        whole, train, test = (self.rows(folder / name) for name in ("all", "train", "test"))
        self.assertCountEqual(train + test, whole)
        self.assertEqual(Dataset.open(folder / "test").class_names, ("a", "b"))
        self.assertIn(b"bytes 2", test[0])

    def test_every_class_of_two_or_more_is_on_both_sides(self):
        labels = np.array([0] * 23 + [1, 2, 2, -1, -1] + [3] * 7, np.int32)
        held = held_out_rows(labels, every=5)
        self.assertEqual([held[labels == c].sum() for c in (0, 1, 2, 3, -1)], [5, 0, 1, 2, 0])

    def test_two_classes_with_two_images_are_needed_to_measure(self):
        for number, (labels, expected) in enumerate(
            [([0, 0, 1, 1], True), ([0, 0, 0, 1], False), ([None, None], False), ([3, 3, 3], False)]
        ):
            path = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir())) / str(number)
            with DatasetWriter(path) as writer:
                for label in labels:
                    writer.write(b"bytes", label=label)
            self.assertEqual(measurable(path), expected, labels)

    def rows(self, path):
        dataset = Dataset.open(path)
        records = RowReader(dataset).read(np.arange(dataset.rows))
        self.assertLen([schema.decode_example(record) for record in records], dataset.rows)
        return records


if __name__ == "__main__":
    tf.test.main()
