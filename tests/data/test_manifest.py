"""Data set folders: what is written is read back, and incomplete ones are refused."""

import os

import numpy as np
import tensorflow as tf

from dc_tf.data import schema
from dc_tf.data.manifest import MANIFEST, Dataset, DatasetWriter
from dc_tf.errors import ConfigError, DataError


def write(path, rows=5, **settings):
    with DatasetWriter(path, **settings) as writer:
        for row in range(rows):
            writer.write(b"x" * row, label=None if row == 3 else row % 2, source=f"{row}.jpg")


class SchemaTest(tf.test.TestCase):
    def test_a_record_comes_back_with_its_metadata(self):
        meta = {"camera": "K1000", "latitude": 48.5, "hashtag": ["sea", "dog"], "year": 1984}
        record = schema.encode_example(b"\xff\xd8", label=4, source="a/b.jpg", meta=meta)
        decoded = schema.decode_example(record)
        self.assertEqual(
            decoded, {"encoded": b"\xff\xd8", "label": 4, "source": "a/b.jpg", "meta": meta}
        )

    def test_a_batch_parses_with_minus_one_for_no_label(self):
        records = [schema.encode_example(b"a", label=2), schema.encode_example(b"b", source="s")]
        parsed = schema.parse_example(tf.constant(records))
        self.assertAllEqual(parsed["label"], [2, -1])
        self.assertAllEqual(parsed["encoded"], [b"a", b"b"])
        self.assertAllEqual(parsed["source"], [b"", b"s"])

    def test_a_file_name_that_is_not_utf8_is_kept(self):
        name = os.fsdecode(b"\xff.jpg")
        record = schema.encode_example(b"a", source=name)
        self.assertEqual(schema.parse_example(tf.constant([record]))["source"][0], b"\xff.jpg")


class ManifestTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.get_temp_dir(), "data")

    def test_rows_are_numbered_in_writing_order_across_shards(self):
        write(self.path, rows_per_shard=2, class_names=["cat", "dog"])
        dataset = Dataset.open(self.path)
        self.assertEqual(dataset.rows, 5)
        self.assertEqual(dataset.class_names, ("cat", "dog"))
        self.assertAllEqual(dataset.offsets, [0, 2, 4, 5])
        self.assertAllEqual(dataset.labels(), [0, 1, 0, -1, 0])
        self.assertEqual(dataset.labels().dtype, np.int32)
        self.assertEqual(dataset.shards[1].name, "shard-00001-of-00003.tfrecord")

    def test_the_shards_are_plain_tfrecords_and_the_index_points_at_payloads(self):
        write(self.path, rows_per_shard=2)
        dataset = Dataset.open(self.path)
        for number in range(3):
            with open(dataset.shard_path(number), "rb") as file:
                content = file.read()
            self.assertLen(content, dataset.shards[number].bytes)
            payloads = [content[o : o + n] for o, n, _ in dataset.index(number)]
            records = tf.data.TFRecordDataset(dataset.shard_path(number))
            self.assertEqual(payloads, [record.numpy() for record in records])

    def test_locate_keeps_order_and_repeats(self):
        write(self.path, rows_per_shard=2)
        dataset = Dataset.open(self.path)
        shards, entries = dataset.locate([4, 1, 1, 0])
        self.assertAllEqual(shards, [2, 0, 0, 0])
        self.assertAllEqual(entries[1], entries[2])
        self.assertAllEqual(entries[3], dataset.index(0)[0])

    def test_a_row_outside_is_named(self):
        write(self.path)
        for row in (-1, 5):
            with self.assertRaisesRegex(DataError, f"Row {row} .*0..4"):
                Dataset.open(self.path).locate([0, row])

    def test_a_data_set_behind_gfile_works_like_a_local_one(self):
        write("ram://manifest_test/data", rows_per_shard=2)
        dataset = Dataset.open("ram://manifest_test/data")
        self.assertAllEqual(dataset.labels(), [0, 1, 0, -1, 0])
        dataset.verify()

    def test_a_missing_folder_says_what_to_run(self):
        with self.assertRaisesRegex(DataError, "does not exist.*dc_tf convert.*dc_tf generate"):
            Dataset.open(self.path)

    def test_a_folder_without_manifest_is_incomplete(self):
        write(self.path)
        os.remove(os.path.join(self.path, MANIFEST))
        with self.assertRaisesRegex(DataError, "is incomplete"):
            Dataset.open(self.path)

    def test_a_body_that_fails_leaves_nothing(self):
        with self.assertRaises(ZeroDivisionError):
            with DatasetWriter(self.path) as writer:
                writer.write(b"a")
                raise ZeroDivisionError
        self.assertEmpty(os.listdir(self.path))

    def test_a_data_set_without_rows_is_refused(self):
        with self.assertRaisesRegex(DataError, "at least one"):
            with DatasetWriter(self.path):
                pass

    def test_a_full_folder_is_only_overwritten_when_told_to(self):
        write(self.path, rows_per_shard=1)
        with self.assertRaisesRegex(ConfigError, "not empty.*--overwrite"):
            DatasetWriter(self.path)
        write(self.path, rows=2, overwrite=True)
        self.assertEqual(Dataset.open(self.path).rows, 2)
        self.assertLen(os.listdir(self.path), 3)

    def test_the_old_data_set_survives_a_failed_replacement(self):
        write(self.path)
        with self.assertRaises(ZeroDivisionError):
            with DatasetWriter(self.path, overwrite=True) as writer:
                writer.write(b"a")
                raise ZeroDivisionError
        Dataset.open(self.path).verify()

    def test_a_label_without_a_name_is_refused(self):
        with self.assertRaisesRegex(DataError, "label 2.*0..1"):
            with DatasetWriter(self.path, class_names=["cat", "dog"]) as writer:
                writer.write(b"a", label=2)

    def test_verify_finds_a_changed_byte(self):
        write(self.path)
        dataset = Dataset.open(self.path)
        dataset.verify()
        with open(dataset.shard_path(0), "r+b") as file:
            file.seek(dataset.index(0)[2, 0] + 3)
            file.write(b"\0\1")
        with self.assertRaisesRegex(DataError, "shard-00000"):
            dataset.verify()


if __name__ == "__main__":
    tf.test.main()
