"""TFRecords of other programs: indexed in place, with any feature names, bad records left out."""

import dataclasses
import os
import shutil
import signal
from unittest import mock

import numpy as np
import pictures
import tensorflow as tf

from dc_tf.data.convert import convert
from dc_tf.data.input.pipeline import evaluation_batches
from dc_tf.data.storage import index_tfrecords as index_lib
from dc_tf.data.storage.index_tfrecords import index_tfrecords
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.data.storage.scan import repair
from dc_tf.data.storage.schema import Features
from dc_tf.data.storage.verify import verify
from dc_tf.distributed import stop_request
from dc_tf.errors import ConfigError, DataError, Preempted

IMAGENET = Features(source="image/filename", meta="", label_offset=-1)


def imagenet_record(number, image=None):
    """A record as the usual scripts for ImageNet write it: labels from 1 on."""
    example = tf.train.Example()
    feature = example.features.feature
    feature["image/encoded"].bytes_list.value.append(image or pictures.encoded(number, "JPEG"))
    feature["image/class/label"].int64_list.value.append(number % 3 + 1)
    feature["image/class/text"].bytes_list.value.append(b"tench")
    feature["image/filename"].bytes_list.value.append(b"n%d.JPEG" % number)
    feature["image/object/bbox/xmin"].float_list.value.extend([0.25, 0.5])
    return example.SerializeToString()


class IndexTfrecordsTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = os.path.join(self.get_temp_dir(), "theirs")
        os.makedirs(self.folder)

    def shard(self, name, records):
        path = os.path.join(self.folder, name)
        with tf.io.TFRecordWriter(path) as writer:
            for record in records:
                writer.write(record)
        return path

    def imagenet(self):
        """Three files, twelve rows; returns the pattern."""
        for number in range(3):
            records = map(imagenet_record, range(4 * number, 4 * number + 4))
            self.shard(f"train-{number:05d}-of-00003", records)
        return os.path.join(self.folder, "train-*")

    def index(self, *args, **settings):
        return index_tfrecords(*args, **{"features": IMAGENET, "progress": False, **settings})

    def test_imagenet_files_become_a_data_set_and_not_one_byte_of_them_changes(self):
        pattern = self.imagenet()
        before = pictures.files(self.folder)
        result = self.index(pattern)
        self.assertEqual((result["rows"], result["shards"], result["labels"]), (12, 3, [0, 2]))
        after = pictures.files(self.folder)
        self.assertEqual({name: after[name] for name in before}, before)
        dataset = Dataset.open(self.folder)
        self.assertAllEqual(dataset.labels(), np.arange(12) % 3)
        examples = pictures.examples(self.folder)
        self.assertEqual([e["source"] for e in examples], [f"n{n}.JPEG" for n in range(12)])
        self.assertEqual(examples[5]["label"], 2)
        expected = {"image/class/text": "tench", "image/object/bbox/xmin": [0.25, 0.5]}
        self.assertEqual(examples[5]["meta"], expected)
        self.assertEmpty(list(verify(dataset, progress=False)))
        (batch,) = evaluation_batches(RowReader(dataset), np.arange(12), 12, 8, 8)
        self.assertAllEqual(batch["label"], np.arange(12) % 3)

    def test_any_names_will_do_and_the_data_set_may_lie_elsewhere(self):
        example = tf.train.Example()
        example.features.feature["jpg"].bytes_list.value.append(pictures.encoded())
        self.shard("a.tfrecord", [example.SerializeToString()] * 2)
        self.shard("notes.txt", [])
        output = os.path.join(self.get_temp_dir(), "ours")
        self.index(self.folder, output, features=Features("jpg", "", "", ""))
        self.assertCountEqual(os.listdir(self.folder), ["a.tfrecord", "notes.txt"])
        moved = output + "2"  # only the index and the manifest
        shutil.move(output, moved)
        self.assertLen(pictures.examples(moved), 2)
        self.assertAllEqual(Dataset.open(moved).labels(), [-1, -1])

    def test_files_behind_gfile_are_indexed_too(self):
        local = self.shard("a.tfrecord", map(imagenet_record, range(3)))
        tf.io.gfile.makedirs("ram://index_test")
        tf.io.gfile.copy(local, "ram://index_test/a.tfrecord")
        output = os.path.join(self.get_temp_dir(), "ours")
        self.index("ram://index_test/a.tfrecord", output)
        self.assertLen(pictures.examples(output), 3)
        self.index("ram://index_test/a.tfrecord")
        self.assertLen(pictures.examples("ram://index_test"), 3)

    def test_a_wrong_name_of_a_feature_names_those_there_are(self):
        pattern = self.imagenet()
        features = Features("jpg", "", "", "")
        with self.assertRaisesRegex(ConfigError, "has no jpg; it has image/class/label, .*encoded"):
            self.index(pattern, features=features)
        with self.assertLogs("absl", "WARNING") as logged:
            self.index(pattern, features=dataclasses.replace(IMAGENET, label="klass"))
        self.assertRegex(logged.output[0], "has no klass; .*image/class/label")

    def test_a_bad_record_is_named_or_left_out_up_to_a_share(self):
        pattern = self.imagenet()
        path = os.path.join(self.folder, "train-00001-of-00003")
        records = [imagenet_record(4), imagenet_record(5), imagenet_record(6, b"no image"), b"\xff"]
        self.shard(os.path.basename(path), records)
        with open(path, "r+b") as file:
            file.seek(20)
            file.write(b"\0\0")
        with self.assertRaisesRegex(
            DataError, "train-00001.* at offset 12 is corrupt.*max_bad_share"
        ):
            self.index(pattern)
        self.assertFalse(os.path.exists(os.path.join(self.folder, "manifest.json")))
        with self.assertRaisesRegex(DataError, "fewer than the 3 bad ones of 12"):
            self.index(pattern, max_bad_share=0.2)
        result = self.index(pattern, max_bad_share=0.25)
        self.assertEqual((result["rows"], result["rejected"]), (9, 3))
        sources = [f"n{n}.JPEG" for n in (0, 1, 2, 3, 5, 8, 9, 10, 11)]
        self.assertEqual(pictures.sources(self.folder), sources)
        reasons = pictures.rejected(self.folder)
        self.assertRegex(reasons["train-00001-of-00003@12"], "checksum")
        self.assertTrue(any("cannot identify" in reason for reason in reasons.values()))
        self.assertTrue(any("not a tf.train.Example" in reason for reason in reasons.values()))
        self.assertEmpty(list(verify(Dataset.open(self.folder), progress=False)))

    def test_labels_have_to_fit(self):
        pattern = self.imagenet()
        with self.assertRaisesRegex(ConfigError, "has label 1, with label_offset -2"):
            self.index(pattern, features=dataclasses.replace(IMAGENET, label_offset=-3))
        with self.assertRaisesRegex(ConfigError, "label 2, but only 2 class names.*label_offset"):
            self.index(pattern, class_names=["a", "b"])
        with self.assertLogs("absl", "WARNING") as logged:
            self.index(pattern, features=dataclasses.replace(IMAGENET, label_offset=0))
        self.assertRegex(logged.output[0], "use --label_offset=-1")
        self.index(pattern, class_names=["a", "b", "c"], overwrite=True)
        self.assertEqual(Dataset.open(self.folder).class_names, ("a", "b", "c"))

    def test_what_cannot_be_indexed_is_refused(self):
        with self.assertRaisesRegex(ConfigError, "no TFRecord files"):
            self.index(self.folder)
        with tf.io.TFRecordWriter(os.path.join(self.folder, "z.tfrecord"), "GZIP") as writer:
            writer.write(imagenet_record(0))
        with self.assertRaisesRegex(DataError, "is compressed"):
            self.index(self.folder)
        self.shard("a.tfrecord", [])
        with self.assertRaisesRegex(DataError, "no valid record"):
            self.index(os.path.join(self.folder, "a.tfrecord"))

    def test_missing_files_of_a_series_are_reported(self):
        pattern = self.imagenet()
        os.remove(os.path.join(self.folder, "train-00001-of-00003"))
        with self.assertLogs("absl", "WARNING") as logged:
            self.index(pattern)
        self.assertRegex(logged.output[0], "1 of 3 files are missing, the first is number 1")

    def test_a_second_call_finishes_what_the_first_began(self):
        pattern = self.imagenet()
        self.index(pattern)
        whole = pictures.files(self.folder)
        self.index(pattern, overwrite=True)
        self.assertEqual(pictures.files(self.folder), whole)
        scan, scanned = index_lib.scan_shards, []

        def stop_after_the_second(paths, features):
            scanned.extend(map(os.path.basename, paths))
            if len(scanned) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return scan(paths, features)

        self.addCleanup(stop_request.reset)
        with mock.patch.object(index_lib, "scan_shards", stop_after_the_second):
            with self.assertRaises(Preempted), stop_request.signals_handled():
                self.index(pattern, overwrite=True)
            stop_request.reset()
            Dataset.open(self.folder)  # the old one stays usable
            self.index(pattern, overwrite=True)
        self.assertEqual(scanned[2:], ["train-00002-of-00003"])
        self.assertEqual(pictures.files(self.folder), whole)

    def test_files_of_others_survive_when_their_folder_is_written_over(self):
        name = "shard-00000-of-00001.tfrecord"  # as we would call it
        self.shard(name, map(imagenet_record, range(3)))
        self.index(self.folder)
        kept = pictures.files(self.folder)[name]
        images = os.path.join(self.get_temp_dir(), "images")
        for number in range(2):
            pictures.write(images, f"{number}.png", pictures.encoded(number))
        with self.assertRaisesRegex(ConfigError, "no data set written there lists"):
            convert(images, self.folder, workers=1, overwrite=True, progress=False)
        self.assertEqual(pictures.files(self.folder)[name], kept)
        self.index(self.folder, class_names=["a", "b", "c"], overwrite=True)
        self.assertEqual(pictures.files(self.folder)[name], kept)

    def test_a_data_set_of_ours_can_be_indexed_where_it_is(self):
        images = os.path.join(self.get_temp_dir(), "images")
        for number in range(5):
            pictures.write(images, f"{number}.png", pictures.encoded(number))
        output = os.path.join(self.get_temp_dir(), "ours")
        convert(images, output, rows_per_shard=2, workers=1, progress=False)
        before = pictures.files(output)
        self.index(output, features=Features(meta=""), overwrite=True)
        after = pictures.files(output)
        del before["manifest.json"], after["manifest.json"]
        self.assertEqual(after, before)
        self.assertLen(pictures.examples(output), 5)


class RepairTest(tf.test.TestCase):
    def test_indexes_that_are_missing_or_corrupt_are_made_anew(self):
        images, path = (os.path.join(self.get_temp_dir(), name) for name in ("images", "data"))
        for number in range(7):
            pictures.write(images, f"{'ab'[number % 2]}/{number}.png", pictures.encoded(number))
        convert(images, path, labels_from_folders=True, rows_per_shard=2, workers=1, progress=False)
        whole, dataset = pictures.files(path), Dataset.open(path)
        os.remove(dataset.index_path(0))
        np.save(dataset.index_path(2), np.zeros((5, 3), np.int64))
        pictures.write(path, os.path.basename(dataset.index_path(3)), b"nonsense")
        result = repair(path, progress=False)
        self.assertLen(result["repaired"], 3)
        self.assertEqual(pictures.files(path), whole)
        self.assertEmpty(repair(path, progress=False)["repaired"])
        os.remove(dataset.index_path(1))
        os.truncate(dataset.shard_path(1), 100)
        with self.assertRaisesRegex(DataError, "shard-00001.*not the 2 of the manifest"):
            repair(path, progress=False)


if __name__ == "__main__":
    tf.test.main()
