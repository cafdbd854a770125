"""Data set folders: what is written is read back, and incomplete ones are refused."""

import dataclasses
import json
import os
import re
import shlex
from unittest import mock

import numpy as np
import tensorflow as tf

from dc_tf.data.storage import files, schema
from dc_tf.data.storage.manifest import MANIFEST, Dataset
from dc_tf.data.storage.verify import verify
from dc_tf.data.storage.writer import DatasetWriter
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

    def test_a_batch_parses_and_a_record_without_an_image_gives_an_empty_one(self):
        records = [schema.encode_example(b"a", label=2), schema.encode_example(b"b", source="s")]
        other = schema.Features(image="nothing")
        self.assertAllEqual(schema.parse_images(tf.constant(records)), [b"a", b"b"])
        self.assertAllEqual(schema.parse_images(tf.constant(records), other), [b"", b""])

    def test_a_record_has_the_bytes_of_tensorflows_own_example(self):
        meta = {"text": "é", "texts": ["a", "b"], "numbers": [1, -2, 2**40], "share": 0.1, "no": []}
        theirs = tf.train.Example()
        feature = theirs.features.feature
        feature["image/encoded"].bytes_list.value.append(b"jpeg")
        feature["image/source"].bytes_list.value.append(b"a/b.jpg")
        feature["image/class/label"].int64_list.value.append(3)
        feature["meta/text"].bytes_list.value.append("é".encode())
        feature["meta/texts"].bytes_list.value.extend([b"a", b"b"])
        feature["meta/numbers"].int64_list.value.extend([1, -2, 2**40])
        feature["meta/share"].float_list.value.append(0.1)
        feature["meta/no"].bytes_list.SetInParent()
        record = schema.encode_example(b"jpeg", 3, "a/b.jpg", meta)
        self.assertEqual(record, theirs.SerializeToString(deterministic=True))
        self.assertEqual(tf.train.Example.FromString(record), theirs)

    def test_a_file_name_that_is_not_utf8_is_kept(self):
        name = os.fsdecode(b"\xff.jpg")
        record = schema.encode_example(b"a", source=name)
        self.assertIn(b"\xff.jpg", record)

    def test_features_of_others_may_have_any_name_and_count_from_one(self):
        example = tf.train.Example()
        feature = example.features.feature
        feature["img"].bytes_list.value.append(b"jpeg")
        feature["class"].int64_list.value.append(1)
        feature["file"].bytes_list.value.append(b"a/b.jpg")
        feature["text"].bytes_list.value.append(b"long " * 1000 + b"\0")
        feature["box"].float_list.value.extend([0.5, 1.5])
        record = example.SerializeToString()
        features = schema.Features("img", "class", "file", meta="", label_offset=-1)
        decoded = schema.decode_example(record, features)
        self.assertLen(decoded["meta"].pop("text"), 999)
        self.assertEqual(decoded["meta"], {"box": [0.5, 1.5]})
        self.assertEqual(decoded["encoded"], b"jpeg")
        self.assertEqual((decoded["label"], decoded["source"]), (0, "a/b.jpg"))
        self.assertEqual(schema.image_and_label(record, features), (b"jpeg", 0))
        for changes, message in [
            (dict(image="image"), "has no image; it has box, class, file, img, text"),
            (dict(label="box"), "not an integer"),
            (dict(label="text"), "not an integer"),
            (dict(label_offset=-3), "has label 1, with label_offset -2"),
        ]:
            with self.assertRaisesRegex(ValueError, message):
                schema.decode_example(record, dataclasses.replace(features, **changes))
        self.assertIsNone(
            schema.decode_example(record, dataclasses.replace(features, label_offset=-2))["label"]
        )
        with self.assertRaisesRegex(ValueError, "not a tf.train.Example"):
            schema.decode_example(b"\xff\xff", features)


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
            with self.assertRaisesRegex(DataError, f"row {row} .*0..4"):
                Dataset.open(self.path).locate([0, row])

    def test_a_data_set_behind_gfile_works_like_a_local_one(self):
        write("ram://manifest_test/data", rows_per_shard=2)
        dataset = Dataset.open("ram://manifest_test/data")
        self.assertAllEqual(dataset.labels(), [0, 1, 0, -1, 0])
        self.assertEmpty(list(verify(dataset, progress=False)))

    def test_a_missing_folder_says_what_to_run(self):
        with self.assertRaisesRegex(DataError, "does not exist.*dc_tf convert.*dc_tf generate"):
            Dataset.open(self.path)

    def test_a_folder_of_images_is_advised_as_the_input_and_never_as_the_output(self):
        for name in ("", "cat"):
            os.makedirs(os.path.join(self.path, name), exist_ok=True)
            advice = re.escape(f"--input={shlex.quote(self.path)} --output=DATA")
            with self.assertRaisesRegex(DataError, advice):
                Dataset.open(self.path)
        file = os.path.join(self.get_temp_dir(), "a.csv")
        with open(file, "w"):
            pass
        with self.assertRaisesRegex(DataError, "is a file; a data set is a folder"):
            Dataset.open(file)

    def test_a_folder_without_manifest_is_incomplete(self):
        write(self.path)
        os.remove(os.path.join(self.path, MANIFEST))
        with self.assertRaisesRegex(DataError, "is incomplete"):
            Dataset.open(self.path)

    def test_a_manifest_that_cannot_be_used_is_not_called_missing(self):
        write(self.path)
        manifest = os.path.join(self.path, MANIFEST)
        with open(manifest, "rb") as file:
            whole = file.read()
        for data, message in [
            (b"", "is corrupt: it is empty"),
            (
                whole[: len(whole) // 2],
                f"is corrupt: it is truncated after {len(whole) // 2} bytes",
            ),
            (whole[:-2], "is corrupt: it is truncated"),
            (b"\xff" + whole, "is corrupt: it is not UTF-8 text, byte 0 is 0xFF"),
            (whole + b"}", "is corrupt: Extra data"),
            (b"[]", "has schema version None"),
        ]:
            with open(manifest, "wb") as file:
                file.write(data)
            with self.assertRaisesRegex(DataError, message):
                Dataset.open(self.path)
        error = PermissionError(13, "Permission denied")
        with mock.patch.object(files, "open_binary", side_effect=error):
            with self.assertRaisesRegex(DataError, "cannot be read: Permission denied; make it"):
                Dataset.open(self.path)
        os.remove(manifest)
        os.mkdir(manifest)
        with self.assertRaisesRegex(DataError, "manifest.json is a folder"):
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

    def test_a_full_folder_is_only_overwritten_on_request(self):
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
        self.assertEmpty(list(verify(Dataset.open(self.path), progress=False)))

    def test_a_label_without_a_name_is_refused(self):
        with self.assertRaisesRegex(DataError, "label 2.*0..1"):
            with DatasetWriter(self.path, class_names=["cat", "dog"]) as writer:
                writer.write(b"a", label=2)

    def test_an_index_that_is_missing_or_another_is_named_with_the_remedy(self):
        write(self.path, rows_per_shard=2)
        os.replace(Dataset.open(self.path).index_path(2), Dataset.open(self.path).index_path(0))
        dataset = Dataset.open(self.path)
        with self.assertRaisesRegex(DataError, r"shard-00000.*shape \(1, 3\).*dc_tf index"):
            dataset.labels()
        with self.assertRaisesRegex(DataError, "shard-00002.*cannot be read.*dc_tf index"):
            dataset.locate([4])

    def test_a_manifest_that_was_changed_is_refused(self):
        write(self.path)
        path = os.path.join(self.path, MANIFEST)
        with open(path) as file:
            manifest = json.load(file)
        for change, message in [
            ({"rows": 6}, "counts 6 rows, but its shards have 5"),
            ({"shards": [{"name": "a"}]}, "is corrupt"),
            ({"features": {"picture": "x"}}, "is corrupt"),
            ({"schema_version": 99}, "version 99"),
        ]:
            with open(path, "w") as file:
                json.dump({**manifest, **change}, file)
            with self.assertRaisesRegex(DataError, message):
                Dataset.open(self.path)
        for text in ("[]", "{", ""):
            with open(path, "w") as file:
                file.write(text)
            with self.assertRaisesRegex(DataError, "corrupt|version None"):
                Dataset.open(self.path)

    def test_the_writer_closes_a_shard_with_what_is_known_by_then(self):
        with DatasetWriter(self.path, rows_per_shard=2, job={"a": (1, 2)}) as writer:
            for row in range(3):
                writer.write(b"x")
                if writer.is_full:
                    writer.close_shard({"row": row})
            self.assertEqual(list(writer.notes()), [{"row": 1}])
        self.assertEqual(Dataset.open(self.path).origin, {"a": [1, 2]})


if __name__ == "__main__":
    tf.test.main()
