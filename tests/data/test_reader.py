"""Reading by row id: any order, many threads, and what a damaged shard says."""

import concurrent.futures
import os

import numpy as np
import tensorflow as tf

from dc_tf.data import reader as reader_lib
from dc_tf.data import schema
from dc_tf.data.manifest import Dataset, DatasetWriter
from dc_tf.data.reader import RowReader, data_errors, read_rows
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

    def test_a_pipeline_reads_batches_and_raises_the_readers_error(self):
        dataset = write(self.path)
        batches = tf.data.Dataset.from_tensor_slices(np.arange(20)).batch(8)
        batches = batches.map(read_rows(RowReader(dataset)))
        read = [record for batch in batches for record in batch.numpy()]
        self.assertEqual(read, RowReader(dataset).read(range(20)))
        os.truncate(dataset.shard_path(2), 5)
        with self.assertRaisesRegex(DataError, "^The record in .*shard-00002"), data_errors():
            list(batches)


if __name__ == "__main__":
    tf.test.main()
