"""Reading by row id: any order, many threads, and what a damaged shard says."""

import concurrent.futures
import os

import numpy as np
import tensorflow as tf

from dc_tf.data import reader as reader_lib
from dc_tf.data import schema
from dc_tf.data.manifest import Dataset
from dc_tf.data.reader import RowReader, data_errors
from dc_tf.data.stand_ins import DamagedRow
from dc_tf.data.writer import DatasetWriter
from dc_tf.errors import DataError


def write(path, rows=20, rows_per_shard=6):
    with DatasetWriter(path, rows_per_shard=rows_per_shard) as writer:
        for row in range(rows):
            writer.write(b"%d" % row * (row + 1))
    return Dataset.open(path)


def contents(records):
    return [schema.decode_example(record)["encoded"] for record in records]


class ReaderTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.get_temp_dir(), "data")

    def test_records_come_in_the_order_asked_for(self):
        reader = RowReader(write(self.path))
        rows = [19, 0, 7, 7, 5, 6]
        self.assertEqual(contents(reader.read(rows)), [b"%d" % r * (r + 1) for r in rows])
        self.assertEqual(reader.read([]), [])

    def test_a_reader_behind_gfile_reads_the_same(self):
        remote = RowReader(write("ram://reader_test/data"))
        self.assertEqual(remote.read(range(20)), RowReader(write(self.path)).read(range(20)))

    def test_threads_do_not_disturb_each_other(self):
        for path in (self.path, "ram://reader_threads/data"):
            reader = RowReader(write(path, rows=200, rows_per_shard=7))
            orders = [np.random.default_rng(seed).permutation(200) for seed in range(16)]
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                for rows, records in zip(orders, pool.map(reader.read, orders), strict=True):
                    self.assertEqual(contents(records), [b"%d" % r * (r + 1) for r in rows])

    def test_more_shards_than_files_kept_open_are_read(self):
        kept, reader_lib._MAX_OPEN = reader_lib._MAX_OPEN, 2
        self.addCleanup(setattr, reader_lib, "_MAX_OPEN", kept)
        reader = RowReader(write(self.path, rows=20, rows_per_shard=1))
        self.assertEqual(
            contents(reader.read([3, 9, 12, 3])), [b"3" * 4, b"9" * 10, b"12" * 13, b"3" * 4]
        )

    def test_a_reader_can_be_used_again_after_close(self):
        reader = RowReader(write(self.path))
        first = reader.read([4])
        reader.close()
        self.assertEqual(reader.read([4]), first)

    def test_a_shard_that_was_cut_short_is_named_with_the_offset(self):
        dataset = write(self.path)
        offset = dataset.index(0)[5, 0]
        os.truncate(dataset.shard_path(0), offset + 3)
        with self.assertRaisesRegex(DataError, f"shard-00000.* offset {offset} ends early"):
            RowReader(dataset).read([0, 5])

    def test_a_shard_that_was_not_indexed_is_told_apart(self):
        dataset = write(self.path)
        os.replace(dataset.shard_path(1), dataset.shard_path(0))
        with self.assertRaisesRegex(DataError, "shard-00000.*not the one that was indexed"):
            RowReader(dataset).read([0])

    def test_a_missing_shard_is_named(self):
        dataset = write(self.path)
        os.remove(dataset.shard_path(2))
        with self.assertRaisesRegex(DataError, "shard-00002.*cannot be read"):
            RowReader(dataset).read([13])

    def test_a_changed_byte_anywhere_in_a_record_is_told_by_its_checksum(self):
        for path in (self.path, "ram://reader_damage/data"):
            dataset = write(path)
            with tf.io.gfile.GFile(dataset.shard_path(0), "rb") as file:
                content = bytearray(file.read())
            offset, length, _ = dataset.index(0)[3].tolist()
            for place in (offset, offset + length - 1, offset + length, offset + length + 3):
                changed = bytes(content[:place]) + bytes([content[place] ^ 1])
                tf.io.gfile.remove(dataset.shard_path(0))  # ram:// would append
                with tf.io.gfile.GFile(dataset.shard_path(0), "wb") as file:
                    file.write(changed + bytes(content[place + 1 :]))
                reader = RowReader(dataset)
                with self.assertRaisesRegex(DamagedRow, f"offset {offset} is damaged"):
                    reader.read([3])
                self.assertLen(reader.read([2, 4]), 2)

    def test_an_index_that_points_outside_is_told_and_nothing_huge_is_read(self):
        for change in ([0, 0, 1 << 60], [0, 1 << 60, 5], [3, -(1 << 40), 0], [0, 12, -20]):
            dataset = write(self.path)
            index = np.array(dataset.index(0))
            row, index[change[0], 0], index[change[0], 1] = change
            np.save(dataset.index_path(0), index)
            with self.assertRaisesRegex(DamagedRow, "shard-00000.*index is damaged"):
                RowReader(Dataset.open(self.path)).read([row])
            tf.io.gfile.rmtree(self.path)

    def test_examples_are_decoded_with_the_names_of_the_data_set(self):
        reader = RowReader(write(self.path))
        self.assertEqual(reader.examples([3])[0]["encoded"], b"3333")
        reader.dataset.features = schema.Features(image="img")
        with self.assertRaisesRegex(DamagedRow, "row 3.*shard-00000.*has no img"):
            reader.examples([3])

    def test_the_errors_of_a_pipeline_are_data_errors_again(self):
        reader = RowReader(write(self.path))
        batches = tf.data.Dataset.range(40).map(
            lambda row: tf.numpy_function(lambda row: reader.read([row])[0], [row], tf.string)
        )
        with self.assertRaisesRegex(DataError, "^Row 20 is not in"), data_errors():
            list(batches)


if __name__ == "__main__":
    tf.test.main()
