"""Every kind of damage is found, and named with its shard and offset."""

import json
import os

import numpy as np
import pictures
import tensorflow as tf

from dc_tf.data.storage import processes
from dc_tf.data.storage.manifest import MANIFEST, Dataset
from dc_tf.data.storage.verify import describe, verify
from dc_tf.data.storage.writer import DatasetWriter


class VerifyTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.get_temp_dir(), "data")
        with DatasetWriter(self.path, rows_per_shard=4, overwrite=True) as writer:
            for row in range(14):
                writer.write(pictures.encoded(row), label=row % 3, source=f"{row}.png")
        self.dataset = Dataset.open(self.path)

    def found(self):
        return list(verify(Dataset.open(self.path), progress=False))

    def change(self, shard, offset, data):
        with open(self.dataset.shard_path(shard), "r+b") as file:
            file.seek(offset)
            file.write(data)

    def test_an_intact_data_set_has_none(self):
        self.assertEmpty(self.found())

    def test_a_changed_byte_is_named_with_its_record(self):
        offset = int(self.dataset.index(1)[2, 0])
        self.change(1, offset + 30, b"\0\1\2")
        (found,) = self.found()
        self.assertEqual((found.shard, found.rows), (self.dataset.shards[1].name, 1))
        self.assertEqual(found.offset, offset)
        self.assertIn("checksum", found.reason)
        self.assertIn(f"shard-00001-of-00004.tfrecord, 1 rows, the first at {offset}: is corrupt",
                      describe(found, self.dataset))  # fmt: skip

    def test_each_corrupt_shard_is_found_and_the_others_are_looked_at(self):
        first, second = self.dataset.index(0)[:, 0], self.dataset.index(2)[:, 0]
        os.truncate(self.dataset.shard_path(0), first[2] + 5)
        self.change(2, second[1] - 12, b"\xff" * 3)
        os.remove(self.dataset.shard_path(3))
        cut, header, gone = self.found()
        self.assertEqual((cut.rows, cut.offset), (2, first[2]))
        self.assertIn("truncated", cut.reason)
        self.assertEqual((header.rows, header.offset), (3, second[1]))
        self.assertIn("corrupt header", header.reason)
        self.assertEqual((gone.rows, gone.offset), (2, None))
        self.assertIn("cannot be read", gone.reason)

    def test_an_index_with_a_wrong_label_or_length_is_found(self):
        for column, value in ((2, 7), (1, 5), (0, 13)):
            index = np.array(Dataset.open(self.path).index(1))
            kept = index[3, column]
            index[3, column] = value
            np.save(self.dataset.index_path(1), index)
            (found,) = self.found()
            self.assertEqual(found.rows, 1)
            self.assertRegex(found.reason, "index")
            index[3, column] = kept
            np.save(self.dataset.index_path(1), index)
        os.remove(self.dataset.index_path(1))
        (found,) = self.found()
        self.assertRegex(found.reason, "cannot be read.*dc_tf index")

    def test_shards_that_are_whole_but_others_are_found(self):
        a, b = self.dataset.shard_path(0), self.dataset.shard_path(1)
        for suffix in ("", ".index.npy"):
            os.rename(a + suffix, a + "x")
            os.rename(b + suffix, a + suffix)
            os.rename(a + "x", b + suffix)
        self.assertLen(self.found(), 2)
        self.assertIn("not what was written", self.found()[0].reason)
        for suffix in ("", ".index.npy"):
            os.rename(a + suffix, a + "x")
            os.rename(b + suffix, a + suffix)
            os.rename(a + "x", b + suffix)
        self.change(3, os.path.getsize(self.dataset.shard_path(3)), b"more")
        (found,) = self.found()
        self.assertEqual(found.rows, 0)
        self.assertRegex(found.reason, "bytes; the manifest says")

    def test_a_manifest_that_was_changed_is_found(self):
        path = os.path.join(self.path, MANIFEST)
        with open(path) as file:
            manifest = json.load(file)
        manifest["shards"][2]["checksum"] = manifest["shards"][1]["checksum"]
        with open(path, "w") as file:
            json.dump(manifest, file)
        (found,) = self.found()
        self.assertEqual(found.shard, "shard-00002-of-00004.tfrecord")

    def test_processes_find_the_same(self):
        os.truncate(self.dataset.shard_path(1), 100)
        alone = self.found()
        kept, processes._WORTH_A_PROCESS = processes._WORTH_A_PROCESS, 0
        self.addCleanup(setattr, processes, "_WORTH_A_PROCESS", kept)
        self.assertEqual(list(verify(self.dataset, workers=2, progress=False)), alone)


if __name__ == "__main__":
    tf.test.main()
